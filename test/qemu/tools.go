package qemu

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/deps"
)

// runLimit is for one run of a tool: seconds on a quiet machine.
const runLimit = 120 * time.Second

// run runs a tool to its end and fails the test unless it succeeds; the answer is all it wrote.
func run(t *testing.T, tool string, args ...string) string {
	t.Helper()
	out, err := try(t, tool, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", tool, strings.Join(args, " "), err, out)
	}
	return out
}

// try is run for a tool that may fail.
func try(t *testing.T, tool string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runLimit)
	defer cancel()
	out, err := deps.Find(t, tool).Command(ctx, args...).CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%s %s: no end within %v\n%s", tool, strings.Join(args, " "), runLimit, out)
	}
	return string(out), err
}

// qemuIO gives qemu-io commands for the disk at url, as one run.
func qemuIO(t *testing.T, url string, commands ...string) string {
	t.Helper()
	return run(t, "qemu-io", ioArgs(url, commands)...)
}

// ioArgs: writeback, since qemu-io would send every write with FUA otherwise.
func ioArgs(url string, commands []string) []string {
	args := []string{"-t", "writeback", "-f", "raw", url}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	return args
}

// image makes a file of size bytes: noise by the seed in some places, zeroes and holes in others, and the
// last block not empty.
func image(t *testing.T, size int64, seed uint64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	noise := rand.NewChaCha8(key)
	buf := make([]byte, 192<<10)
	write := func(off int64, n int) {
		_, _ = noise.Read(buf[:n]) // never fails, by its documentation
		if _, err := f.WriteAt(buf[:n], off); err != nil {
			t.Fatal(err)
		}
	}
	for off := int64(0); off+int64(len(buf)) <= size; off += 1 << 20 {
		write(off, len(buf)-512*int(off>>20%7)) // ends at many places within a page
	}
	write(size-512, 512)
	return path
}

// same fails the test unless two files have the same bytes.
func same(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(x) != len(y) {
		t.Fatalf("%s has %d bytes, %s has %d", a, len(x), b, len(y))
	}
	if !bytes.Equal(x, y) {
		i := 0
		for x[i] == y[i] {
			i++
		}
		t.Fatalf("%s and %s differ from byte %d", a, b, i)
	}
}
