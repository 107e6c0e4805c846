package nbd

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
	"github.com/lunar-iscsi/lunar/test/certs"
	"github.com/lunar-iscsi/lunar/test/deps"
	"github.com/lunar-iscsi/lunar/test/qsd"
)

// all is what every one of these servers offers.
const all = backstore.CapFlush | backstore.CapFUA | backstore.CapDiscard | backstore.CapWriteZeroes | backstore.CapAllocation

func TestConformanceQSD(t *testing.T) { conformQSD(t, "raw", false) }

// conformQSD runs the suite on qemu-storage-daemon's disks.
func conformQSD(t *testing.T, driver string, secure bool) {
	deps.Find(t, "qemu-storage-daemon")
	certs := certs.New(t, "qsd-ca").Folder(t)
	var uri string
	backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
		c := qsd.Config{Disks: []qsd.Disk{{Name: "d", Driver: driver, File: qsd.Image(t, driver, size)}}}
		opts := "&restart=safe"
		if secure {
			c.TLS, opts = certs, opts+"&tls-certificates="+certs
		}
		uri = qsd.Start(t, c).URI("d") + opts
		st := openStore(t, uri)
		if i := st.Info(); !i.Has(all) || len(st.(*Store).conns) != defaultConns {
			t.Fatalf("capabilities %b on %d connections", i.Caps, len(st.(*Store).conns))
		}
		return st
	}, backstoretest.Options{Reopen: func(t *testing.T) backstore.Store { return openStore(t, uri) },
		Allocates: secure, // crypto/tls does
	})
}

// What QEMU tells of a qcow2 image's clusters.
func TestAllocationOfQcow2(t *testing.T) {
	const size, cluster = 8 << 20, 64 << 10
	s := qsd.Start(t, qsd.Config{Disks: []qsd.Disk{{Name: "d", Driver: "qcow2", File: qsd.Image(t, "qcow2", size)}}})
	h := openURI(t, s.URI("d"), newTestLoop(t))
	h.must(write(cluster, fill(cluster, 1)))
	h.must(write(4*cluster, fill(2*cluster, 1)))
	r := query(0, size, 8)
	h.must(r)
	if want := ext(0, cluster, hole, cluster, mapped, 2*cluster, hole, 2*cluster, mapped, size-6*cluster, hole); !slices.Equal(r.Extents, want) {
		t.Fatalf("%v, want %v", r.Extents, want)
	}
	h.must(&backstore.Request{Op: backstore.Discard, Off: 4 * cluster, Len: 2 * cluster})
	r = query(4*cluster, 2*cluster, 8)
	h.must(r)
	if want := ext(4*cluster, 2*cluster, hole); !slices.Equal(r.Extents, want) {
		t.Fatalf("discarded: %v, want %v", r.Extents, want)
	}
	h.close()
}

// QEMU gives a disk another size while it is in use, for which it ends the connections: the store follows, and no request fails.
func TestQSDGrows(t *testing.T) {
	for _, driver := range []string{"raw", "qcow2"} {
		const size, block = 4 << 20, 64 << 10
		s := qsd.Start(t, qsd.Config{Disks: []qsd.Disk{{Name: "d", Driver: driver, File: qsd.Image(t, driver, size)}}})
		h := openURI(t, s.URI("d")+"&restart=safe", newTestLoop(t))
		grown := make(chan int64, 1)
		h.st.WatchSize(func(size int64) { grown <- size })
		load := startLoad(h, size, block)
		load.after(64)
		s.Resize(t, "d", 2*size)
		select {
		case n := <-grown:
			if n != 2*size || h.st.Info().Size != n {
				t.Fatalf("%s: grown to %d, Info has %d", driver, n, h.st.Info().Size)
			}
		case <-time.After(limit):
			t.Fatalf("%s: nobody is told of the new size", driver)
		}
		load.after(64)
		load.stop()
		load.verify()
		h.must(write(2*size-block, fill(block, 2)))
		r := read(size, block)
		if h.must(r); !bytes.Equal(r.Buf, make([]byte, block)) {
			t.Fatalf("%s: what was gained does not read as zeroes", driver)
		}
		if n, err := h.st.PresentSize(context.Background()); err != nil || n != 2*size {
			t.Fatalf("%s: present size %d, %v", driver, n, err)
		}
		h.close()
	}
}

// A load writes blocks one after another, several at once, each with the number of its round, until it is stopped.
type load struct {
	h           *harness
	size, block int64
	ended       chan struct{}
	halt        atomic.Bool
	done        chan struct{} // one for each write that ended
	last        []byte        // what was acknowledged of each block
	flags       backstore.Flags
}

func startLoad(h *harness, size, block int64) *load {
	l := &load{h: h, size: size, block: block, ended: make(chan struct{}), done: make(chan struct{}, 1<<16), last: make([]byte, size/block)}
	return l.start(0)
}

func (l *load) start(flags backstore.Flags) *load {
	l.flags, l.ended = flags, make(chan struct{})
	go l.run()
	return l
}

func (l *load) run() {
	defer close(l.ended)
	const depth = 8
	n := l.size / l.block
	for round := byte(1); !l.halt.Load(); round++ {
		for i := int64(0); i < n && !l.halt.Load(); i += depth {
			var rs []*backstore.Request
			for k := i; k < min(i+depth, n); k++ {
				r := write(k*l.block, fill(int(l.block), round))
				r.Flags = l.flags
				rs = append(rs, r)
			}
			d := l.h.submit(rs...)
			for range rs {
				r := <-d
				if r.Err != nil {
					l.h.t.Errorf("write at %d: %v", r.Off, r.Err)
					return
				}
				l.last[r.Off/l.block] = r.Buf[0]
				select {
				case l.done <- struct{}{}:
				default: // nobody waits for so many
				}
			}
		}
	}
}

// after waits until n more writes have ended, or the load has.
func (l *load) after(n int) {
	late := time.After(limit)
	for range n {
		select {
		case <-l.done:
		case <-l.ended:
			return
		case <-late:
			l.h.t.Fatal("no write ends")
		}
	}
}

// stopSoon lets no new batch begin.
func (l *load) stopSoon() { l.halt.Store(true) }

func (l *load) stop() {
	l.h.t.Helper()
	l.stopSoon()
	select {
	case <-l.ended:
	case <-time.After(limit):
		l.h.t.Fatal("the load does not end")
	}
}

// verify reads what was acknowledged.
func (l *load) verify() {
	l.h.t.Helper()
	for i, want := range l.last {
		r := read(int64(i)*l.block, l.block)
		if l.h.must(r); !bytes.Equal(r.Buf, fill(int(l.block), want)) {
			l.h.t.Fatalf("block %d is not what was acknowledged: %d, want %d", i, r.Buf[0], want)
		}
	}
}

// Servers are killed under load and started again, several times: no request fails and nothing that was acknowledged is lost.
func TestKilledUnderLoad(t *testing.T) {
	const size, block = 4 << 20, 16 << 10
	dir := certs.New(t, "ca").Folder(t)
	cases := map[string]struct {
		flags backstore.Flags
		start func(t *testing.T) (uri string, kill, restart func())
	}{
		"nbdkit": {0, func(t *testing.T) (string, func(), func()) {
			d := t.TempDir()
			image := qsd.Image(t, "raw", size)
			p := nbdkit(t, d, "plugin=file", image)
			return socketURI(d, "&restart=safe"), func() { p.kill() }, func() {
				remove(t, filepath.Join(d, "s"))
				p = nbdkit(t, d, "plugin=file", image)
			}
		}},
		"nbdkit with TLS": {0, func(t *testing.T) (string, func(), func()) {
			d := t.TempDir()
			image := qsd.Image(t, "raw", size)
			words := []string{"--tls=require", "--tls-verify-peer", "--tls-certificates=" + dir, "plugin=file", image}
			p := nbdkit(t, d, words...)
			return "nbds+unix:///?socket=" + filepath.Join(d, "s") + "&restart=safe&tls-certificates=" + dir, func() { p.kill() }, func() {
				remove(t, filepath.Join(d, "s"))
				p = nbdkit(t, d, words...)
			}
		}},
		"QSD": {0, func(t *testing.T) (string, func(), func()) {
			s := qsd.Start(t, qsd.Config{Disks: []qsd.Disk{{Name: "d", Driver: "raw", File: qsd.Image(t, "raw", size)}}})
			return s.URI("d") + "&restart=safe", s.Kill, func() { s.Restart(t) }
		}},
		"QSD with TLS": {0, func(t *testing.T) (string, func(), func()) {
			s := qsd.Start(t, qsd.Config{Disks: []qsd.Disk{{Name: "d", Driver: "raw", File: qsd.Image(t, "raw", size)}}, TLS: dir})
			return s.URI("d") + "&restart=safe&tls-certificates=" + dir, s.Kill, func() { s.Restart(t) }
		}},
		// What QEMU has of a qcow2 image's tables in memory goes with it, so that only writes with FUA are safe; with those nothing is in doubt.
		"QSD with qcow2": {backstore.FUA, func(t *testing.T) (string, func(), func()) {
			s := qsd.Start(t, qsd.Config{Disks: []qsd.Disk{{Name: "d", Driver: "qcow2", File: qsd.Image(t, "qcow2", size)}}})
			return s.URI("d"), s.Kill, func() { s.Restart(t) }
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			uri, kill, restart := tc.start(t)
			h := openURI(t, uri, newTestLoop(t))
			l := &load{h: h, size: size, block: block, done: make(chan struct{}, 1<<16), last: make([]byte, size/block)}
			l.start(tc.flags)
			for range 3 {
				l.after(100)
				kill()
				restart()
			}
			l.after(100)
			l.stop()
			l.verify()
			h.must(flush())
			h.close()
		})
	}
}

func remove(t testing.TB, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

// A server that stands still is waited for, however long: the time limit is for one that is gone.
func TestQSDStandsStill(t *testing.T) {
	const size, block = 4 << 20, 16 << 10
	s := qsd.Start(t, qsd.Config{Disks: []qsd.Disk{{Name: "d", Driver: "raw", File: qsd.Image(t, "raw", size)}}})
	h := openURI(t, s.URI("d")+"&offline_after=1s", newTestLoop(t))
	l := startLoad(h, size-block, block)
	l.after(100)
	s.Freeze(t)
	d := h.submit(write(size-4096, fill(4096, 7)))
	h.st.expire() // as if the limit had passed
	select {
	case r := <-d:
		t.Errorf("a write to a server that stands still ended: %v", r.Err)
	default:
	}
	l.stopSoon()
	s.Thaw(t)
	if r := h.wait(d); r.Err != nil {
		t.Error(r.Err)
	}
	l.stop()
	if h.st.away || len(h.warns) != 0 {
		t.Errorf("remarks: %q", h.warns)
	}
	h.close()
}

// The exports of real servers, with their sizes.
func TestRealLists(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	for name, size := range map[string]int64{"a": 1 << 20, "b c": 2 << 20} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, name), size); err != nil {
			t.Fatal(err)
		}
	}
	sock := t.TempDir()
	nbdkit(t, sock, "plugin=file", "dir="+dir)
	s := qsd.Start(t, qsd.Config{Disks: []qsd.Disk{{Name: "a", Driver: "raw", File: filepath.Join(dir, "a")}, {Name: "b", Driver: "qcow2", File: qsd.Image(t, "qcow2", 4<<20)}}})
	for uri, want := range map[string]map[string]int64{
		socketURI(sock, ""): {"a": 1 << 20, "b c": 2 << 20},
		s.URI(""):           {"a": 1 << 20, "b": 4 << 20},
	} {
		u, v := volumesOf(t, uri)
		list, err := v.List(ctx, u)
		if err != nil || len(list) != len(want) {
			t.Errorf("%s: %+v, %v", uri, list, err)
			continue
		}
		for _, one := range list {
			if size, ok := want[one.Name]; !ok || one.Size != size {
				t.Errorf("%s: %+v", uri, one)
			}
			if st := openStore(t, one.URI); st.Info().Size != one.Size {
				t.Errorf("%s opens with %d bytes", one.URI, st.Info().Size)
			} else if err := st.Close(ctx); err != nil {
				t.Error(err)
			}
		}
	}
}
