package file

import (
	"bytes"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

// dirty returns how many pages of the first 64 KiB are not on disk yet; false where the kernel does not tell
// (before Linux 6.5).
func dirty(t *testing.T, st *Store) (uint64, bool) {
	t.Helper()
	var cs unix.Cachestat_t
	err := unix.Cachestat(uint(st.fd), &unix.CachestatRange{Len: 64 << 10}, &cs, 0)
	if err == unix.ENOSYS {
		return 0, false
	}
	if err != nil {
		t.Fatalf("cachestat: %v", err)
	}
	return cs.Dirty + cs.Writeback, true
}

// What claims to be durable has left the page cache when it is completed: durable writes, flushes,
// reads with FUA, every write with cache=writethrough; by the ring and by workers.
func TestDurable(t *testing.T) {
	const size = 64 << 10
	for _, c := range []struct {
		name, opts string
		write      backstore.Flags
		then       backstore.Op
	}{
		{"a durable write", "", backstore.FUA, 0},
		{"a write and a flush", "", 0, backstore.Flush},
		{"a write and a durable read", "", 0, backstore.Read},
		{"a write with writethrough", "cache=writethrough", 0, 0},
	} {
		for _, attach := range []bool{false, true} {
			st := openURI(t, "file://"+filepath.Join(diskDir(t), "d.img")+"?size=1M&"+c.opts)
			h := backstoretest.NewHarness(t, st, attach)
			h.Write(0, bytes.Repeat([]byte{1}, size), c.write)
			switch c.then {
			case backstore.Flush:
				if err := h.Do(&backstore.Request{Op: backstore.Flush}); err != nil {
					t.Fatal(err)
				}
			case backstore.Read:
				if err := h.Do(&backstore.Request{Op: backstore.Read, Flags: backstore.FUA, Len: 512, Buf: h.Buf(512)}); err != nil {
					t.Fatal(err)
				}
			}
			if n, ok := dirty(t, st); ok && !st.mem && n > 0 {
				t.Errorf("attached=%v: %d pages are dirty after %s", attach, n, c.name)
			}
			h.Close()
		}
	}
}
