package qemu

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/test/daemon"
)

// Sizes at which numbers of 32 bits, of blocks or of 512 bytes, and those of 64 bits run out: the capacity is
// right, the last block is there, the one after it is not, and none of its neighbours stands for it.
func TestSizes(t *testing.T) {
	const (
		tib     = int64(1) << 40
		largest = 1<<63 - 4096
	)
	for _, c := range []struct {
		name  string
		size  int64
		block int64
	}{
		{"2 TiB - 1 block", 2*tib - 512, 512},
		{"2 TiB", 2 * tib, 512}, // 2^32 blocks
		{"2 TiB + 1 block", 2*tib + 512, 512},
		{"2 TiB of 4096 - 1 block", 2*tib - 4096, 4096},
		{"2 TiB of 4096 + 1 block", 2*tib + 4096, 4096},
		{"16 TiB of 4096 - 1 block", 16*tib - 4096, 4096},
		{"16 TiB of 4096", 16 * tib, 4096}, // 2^32 blocks
		{"16 TiB of 4096 + 1 block", 16*tib + 4096, 4096},
		{"one block", 512, 512},
		{"one block of 4096", 4096, 4096},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := daemon.Start(t, daemon.Export(disk, fmt.Sprintf("mem:?size=%d&blocksize=%d", c.size, c.block)))
			url := d.URL(disk, 1)
			capacity(t, url, c.size, c.block)
			last := c.size - c.block
			commands := []string{fmt.Sprintf("write -P 0x61 %d %d", last, c.block), fmt.Sprintf("read -P 0x61 %d %d", last, c.block)}
			if c.size > c.block {
				// Where a number that is cut to 32 bits would lead.
				for _, other := range []int64{0, last - c.block, last % (1 << 32) / c.block * c.block, last % (2 * tib) / c.block * c.block} {
					if other != last {
						commands = append(commands, fmt.Sprintf("read -P 0 %d %d", other, c.block))
					}
				}
			}
			qemuIO(t, url, commands...)
			if out, err := try(t, "qemu-io", ioArgs(url, []string{fmt.Sprintf("read %d %d", c.size, c.block)})...); err == nil {
				t.Errorf("a read beyond the end succeeded: %s", out)
			}
			d.Stop(t)
		})
	}
	for _, block := range []int64{512, 4096} {
		t.Run(fmt.Sprintf("2^63 - 4096 bytes of %d", block), func(t *testing.T) {
			d := daemon.Start(t, daemon.Export(disk, fmt.Sprintf("null:?size=%d&blocksize=%d", int64(largest), block)))
			capacity(t, d.URL(disk, 1), largest, block)
			d.Stop(t)
		})
	}
}

// Blocks of 4096 bytes on a file, with content: what is smaller than a block is the initiator's to complete.
func TestLargeBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.img")
	d := daemon.Start(t, daemon.Export(disk, daemon.FileURI(path, "size=64M&blocksize=4096")))
	url := d.URL(disk, 1)
	capacity(t, url, size, 4096)
	source := image(t, size, 4)
	run(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, url)
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", source, url)
	qemuIO(t, url, "write -P 0x71 1M 4k", "write -P 0x72 1049088 512", "read -P 0x72 1049088 512", "read -P 0x71 1M 512", "read -P 0x71 1049600 3072")
	d.Stop(t)
}

// capacity checks what READ CAPACITY(16) says.
func capacity(t *testing.T, url string, size, block int64) {
	t.Helper()
	out := run(t, "iscsi-readcapacity16", url)
	for _, want := range []string{fmt.Sprintf("RETURNED LOGICAL BLOCK ADDRESS:%d\n", size/block-1), fmt.Sprintf("LOGICAL BLOCK LENGTH IN BYTES:%d\n", block)} {
		if !strings.Contains(out, want) {
			t.Errorf("READ CAPACITY(16) lacks %q:\n%s", want, out)
		}
	}
}
