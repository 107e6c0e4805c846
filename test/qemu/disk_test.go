package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/deps"
	"github.com/lunar-iscsi/lunar/test/nbdkit"
)

const (
	disk = "qemu"
	size = 64 << 20
)

// A store is what lunard serves in a test.
type store struct {
	name string
	// uri makes what is needed and names the volume; file is where its bytes are, if in a file.
	uri func(t *testing.T) (uri, file string)
}

var stores = []store{
	{"file", func(t *testing.T) (string, string) {
		path := filepath.Join(t.TempDir(), "disk.img")
		return daemon.FileURI(path, "size=64M&thin=on"), path
	}},
	{"mem", func(*testing.T) (string, string) { return "mem:?size=64M", "" }},
	{"nbd", func(t *testing.T) (string, string) { return nbdkit.Start(t, "64M", nil), "" }},
}

// each runs f on a fresh LUN of every store; d is nil where LUNAR_TEST_URL takes the file's place.
func each(t *testing.T, f func(t *testing.T, url string, d *daemon.Daemon, file string)) {
	for _, s := range stores {
		t.Run(s.name, func(t *testing.T) {
			if url := os.Getenv("LUNAR_TEST_URL"); url != "" && s.name == "file" {
				f(t, url, nil, "")
				return
			}
			uri, file := s.uri(t)
			d := daemon.Start(t, daemon.Export(disk, uri))
			f(t, d.URL(disk, 1), d, file)
		})
	}
}

func TestConvert(t *testing.T) {
	each(t, func(t *testing.T, url string, d *daemon.Daemon, file string) {
		source := image(t, size, 1)
		run(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, url)
		run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", source, url)
		back := filepath.Join(t.TempDir(), "back.raw")
		run(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", url, back)
		same(t, source, back)
		// Over what is there, with more requests at once and out of order.
		second := image(t, size, 2)
		run(t, "qemu-img", "convert", "-n", "-W", "-m", "16", "-f", "raw", "-O", "raw", second, url)
		run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", second, url)
		if out, err := try(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", source, url); err == nil {
			t.Errorf("compare finds no difference to another image: %s", out)
		}
		if d != nil {
			d.Stop(t)
		}
		if file != "" {
			same(t, second, file)
		}
	})
}

func TestPatterns(t *testing.T) {
	each(t, func(t *testing.T, url string, d *daemon.Daemon, _ string) {
		qemuIO(t, url,
			"write -P 0x11 0 64M", // the whole disk, cut by what the LUN takes at once
			"write -P 0xa5 1M 64k", "read -P 0xa5 1M 64k", "read -P 0x11 960k 64k", "read -P 0x11 1088k 64k",
			"write -P 0x5a 1048064 512", "read -P 0x5a 1048064 512", "read -P 0xa5 1M 512", // one block, across a boundary of 1 MiB
			"write -f -P 0xc3 2M 1M", "read -P 0xc3 2M 1M", // FUA
			"writev -P 0x3c 8M 4k 512 64k 1k", "readv -P 0x3c 8M 64k 4k 1k 512",
			"flush",
			"write -z 4M 1M", "read -P 0 4M 1M", "read -P 0x11 5M 4k",
			"write -P 0x77 67108352 512", "read -P 0x77 67108352 512", // the last block
		)
		// Many at once; each area is read back by its own pattern, in another session.
		var writes, reads []string
		for i := range 48 {
			writes = append(writes, fmt.Sprintf("aio_write -P %#x %dk 60k", 0x80+i, 16<<10+i*64))
			reads = append(reads, fmt.Sprintf("read -P %#x %dk 60k", 0x80+i, 16<<10+i*64), fmt.Sprintf("read -P 0x11 %dk 4k", 16<<10+i*64+60))
		}
		qemuIO(t, url, append(writes, "aio_flush")...)
		qemuIO(t, url, reads...)
		if out, err := try(t, "qemu-io", ioArgs(url, []string{"read 64M 512"})...); err == nil {
			t.Errorf("a read beyond the end succeeded: %s", out)
		}
		if d != nil {
			d.Stop(t)
		}
	})
}

func TestInfoAndBench(t *testing.T) {
	d := daemon.Start(t, daemon.Export(disk, "mem:?size=64M"))
	out := run(t, "qemu-img", "info", "-f", "raw", "--output=json", d.URL(disk, 1))
	if !strings.Contains(out, fmt.Sprintf(`"virtual-size": %d`, size)) {
		t.Errorf("qemu-img info does not know the size: %s", out)
	}
	out = run(t, "qemu-img", "bench", "-f", "raw", "-c", "2000", "-d", "16", "-s", "4096", "-t", "none", d.URL(disk, 1))
	if !strings.Contains(out, "Run completed") {
		t.Errorf("qemu-img bench: %s", out)
	}
	d.Stop(t)
}

func TestLibiscsiTools(t *testing.T) {
	d := daemon.Start(t, daemon.Export(disk, "mem:?size=64M"), daemon.ExportLUN("other", 3, "null:?size=3T"))
	url := d.URL(disk, 1)

	out := run(t, "iscsi-ls", "-s", "iscsi://"+d.Addr)
	for _, want := range []string{"Target:" + daemon.Prefix + disk + " Portal:" + d.Addr + ",1", "Target:" + daemon.Prefix + "other",
		"Lun:1", "Lun:3", "DIRECT_ACCESS"} {
		if !strings.Contains(out, want) {
			t.Errorf("iscsi-ls -s lacks %q:\n%s", want, out)
		}
	}
	out = run(t, "iscsi-inq", url)
	for _, want := range []string{"Peripheral Qualifier:CONNECTED", "Peripheral Device Type:DIRECT_ACCESS"} {
		if !strings.Contains(out, want) {
			t.Errorf("iscsi-inq lacks %q:\n%s", want, out)
		}
	}
	for page, want := range map[int]string{
		0x00: "SUPPORTED_VPD_PAGES", 0x80: "Unit Serial Number", 0x83: "Designator", 0xb0: "maximum transfer length", 0xb1: "rotation"} {
		if out := run(t, "iscsi-inq", "-e", "1", "-c", strconv.Itoa(page), url); !strings.Contains(strings.ToLower(out), strings.ToLower(want)) {
			t.Errorf("iscsi-inq of page %02Xh lacks %q:\n%s", page, want, out)
		}
	}
	out = run(t, "iscsi-readcapacity16", url)
	for _, want := range []string{fmt.Sprintf("RETURNED LOGICAL BLOCK ADDRESS:%d", size/512-1), "LOGICAL BLOCK LENGTH IN BYTES:512", fmt.Sprintf("Total size:%d", size)} {
		if !strings.Contains(out, want) {
			t.Errorf("iscsi-readcapacity16 lacks %q:\n%s", want, out)
		}
	}
	out = run(t, "iscsi-readcapacity16", d.URL("other", 3))
	if want := fmt.Sprintf("RETURNED LOGICAL BLOCK ADDRESS:%d", int64(3)<<40/512-1); !strings.Contains(out, want) {
		t.Errorf("iscsi-readcapacity16 of 3 TiB lacks %q:\n%s", want, out)
	}
	d.Stop(t)
}

// iops is what iscsi-perf prints while it runs.
var iops = regexp.MustCompile(`iops\s+(?:average|current)\s+(\d+)`)

func TestPerf(t *testing.T) {
	deps.Find(t, "iscsi-perf")
	d := daemon.Start(t, daemon.Export(disk, "mem:?size=64M"))
	out := run(t, "iscsi-perf", "-m", "16", "-b", "8", "-t", "2", "-r", d.URL(disk, 1))
	m := iops.FindAllStringSubmatch(out, -1)
	if len(m) == 0 {
		t.Fatalf("iscsi-perf says no rate:\n%s", out)
	}
	if last := m[len(m)-1][1]; last == "0" {
		t.Errorf("iscsi-perf read nothing:\n%s", out)
	}
	d.Stop(t)
}
