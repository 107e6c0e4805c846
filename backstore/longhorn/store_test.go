package longhorn

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

func TestConformance(t *testing.T) {
	var e *engine
	backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
		e = newEngine(t, size)
		s, _, err := tryOpen(t, e.uri(""))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}, backstoretest.Options{
		OpenReadOnly: func(t *testing.T, size int64) backstore.Store {
			s, _, err := tryOpen(t, newEngine(t, size).uri("&readonly"))
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		Reopen: func(t *testing.T) backstore.Store {
			s, _, err := tryOpen(t, e.uri(""))
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
	})
}

func TestInfo(t *testing.T) {
	e := newEngine(t, 1<<20+512) // not in whole sectors
	h, w := openURI(t, e.uri("&shared&inflight=7"), false)
	i := h.Info
	if i.Size != 1<<20 || i.Volume != "vol" || i.BlockSize != sector || i.MaxInFlight != 7 || !i.Shared || i.Identity != "" {
		t.Errorf("%+v", i)
	}
	// Nothing is promised that the engine does not keep.
	if i.Has(backstore.CapFlush) || i.Has(backstore.CapFUA) || i.DiscardZeroes || i.AtomicUnit != 0 || !i.Has(backstore.CapDiscard) {
		t.Errorf("promises %+v", i)
	}
	if w.count("1048576 of its 1049088 bytes") != 1 {
		t.Errorf("remarks %q", w.list)
	}
	h.Close()
}

func TestURIs(t *testing.T) {
	for _, c := range []struct{ uri, volume, socket string }{
		{"longhorn:pvc-1", "pvc-1", "/var/run/longhorn-pvc-1.sock"},
		{"longhorn:pvc-1?socket=/run/x", "pvc-1", "/run/x"},
		// As Longhorn has its tgtd open it: -b SOCKET --bsopts size=…;request_timeout=…
		{"longhorn:/var/run/longhorn-vol.sock?size=1G&request_timeout=540", "vol", "/var/run/longhorn-vol.sock"},
		{"longhorn:/run/s", "", "/run/s"},
	} {
		u, err := backstore.ParseURI(c.uri)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parse(u, backstore.Options{})
		if err != nil || got.volume != c.volume || got.socket != c.socket {
			t.Errorf("%s: %+v, %v", c.uri, got, err)
		}
		if k := key(u); k != "longhorn\x00"+c.socket {
			t.Errorf("%s: key %q", c.uri, k)
		}
	}
	for uri, want := range map[string]string{
		"longhorn:":                           "name is missing",
		"longhorn://host/vol":                 "on this machine",
		"longhorn:a/b":                        "no slash",
		"longhorn:/run/s?socket=/run/t":       "given twice",
		"longhorn:v?engine=host":              "HOST:PORT",
		"longhorn:v?engine=:9501":             "HOST:PORT",
		"longhorn:v?engine=h:0":               "HOST:PORT",
		"longhorn:v?size=many":                "no size",
		"longhorn:v?inflight=0":               "1 to 1024",
		"longhorn:v?inflight=1025":            "1 to 1024",
		"longhorn:v?offline_after=soon":       "offline_after=soon",
		"longhorn:v?offline_after=-1s":        "0 (never) or more",
		"longhorn:v?request_timeout=x":        "want seconds",
		"longhorn:v?readonly=maybe":           "on or off",
		"longhorn:v?nonsense=1":               "no option",
		"longhorn:" + strings.Repeat("v", 90): "a unix socket takes 107",
	} {
		_, _, err := tryOpen(t, uri)
		if err == nil || !strings.Contains(err.Error(), want) || backstore.ClassOf(err) != backstore.ClassUnsupported {
			t.Errorf("%s: %v, want %q", uri, err, want)
		}
	}
}

func TestOpenRefused(t *testing.T) {
	wantErr := func(what, uri string, class backstore.Class, part string) {
		t.Helper()
		_, _, err := tryOpen(t, uri)
		if backstore.ClassOf(err) != class || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v", what, err)
		}
	}
	e := newEngine(t, 1<<20)
	wantErr("no socket", "longhorn:vol?socket="+e.path+"x", backstore.ClassOffline, "no engine listens on")
	wantErr("fewer bytes than wanted", e.uri("&size=2M"), backstore.ClassRange, "fewer than size=2097152")
	e.set(func() { e.bare = true })
	wantErr("no replicas", e.uri(""), backstore.ClassOffline, textNoReplica)
	e.set(func() { e.bare, e.dumb = false, true })
	wantErr("no size", e.uri(""), backstore.ClassUnsupported, "give engine=HOST:PORT or size=BYTES")
	h, _ := openURI(t, e.uri("&size=1M"), false)
	if h.Info.Size != 1<<20 {
		t.Errorf("size %d", h.Info.Size)
	}
	h.Close()
	e.set(func() { e.ends = 1000 })
	wantErr("less than a sector", e.uri("&size=1000"), backstore.ClassRange, "less than one sector")
	u, err := backstore.ParseURI(e.uri(""))
	if err != nil {
		t.Fatal(err)
	}
	_, err = backstore.NewRegistry(Driver()).Open(t.Context(), u, backstore.Options{TakeOver: true})
	if backstore.ClassOf(err) != backstore.ClassUnsupported || err == nil {
		t.Errorf("take over: %v", err)
	}
}

// What an engine says of a request becomes its class; the engine goes on.
func TestErrors(t *testing.T) {
	bothWays(t, func(t *testing.T, attach bool) {
		e := newEngine(t, 1<<20)
		page := fill(sector, 1)
		says := func(say func(c *engineConn, h header)) {
			e.answers(func(c *engineConn, h header, _ []byte) bool {
				say(c, h)
				return true
			})
		}
		h, _ := openURI(t, e.uri(""), attach)
		for _, tc := range []struct {
			name  string
			say   func(c *engineConn, h header)
			class backstore.Class
			text  string
		}{
			{"no space", func(c *engineConn, h header) { c.say(h.seq, typeNoSpace, 7, []byte("no room")) }, backstore.ClassNoSpace, "no room"},
			{"an error", func(c *engineConn, h header) { c.fail(h.seq, "tcp://1: input/output error") }, backstore.ClassMedium, "input/output error"},
			{"a long error", func(c *engineConn, h header) { c.fail(h.seq, strings.Repeat("x", 60<<10)) }, backstore.ClassMedium, "xxxx"},
			{"no word", func(c *engineConn, h header) { c.fail(h.seq, "") }, backstore.ClassMedium, "without a word"},
		} {
			for _, r := range []*backstore.Request{read(0, sector), write(0, page), discard(0, sector)} {
				says(tc.say)
				err := h.Do(r)
				h.WantClass(err, tc.class, tc.name)
				var ee *EngineError
				if !errors.As(err, &ee) || !strings.Contains(ee.Text, tc.text) || len(ee.Text) > maxText {
					t.Fatalf("%s: %v", tc.name, err)
				}
			}
		}
		says(func(c *engineConn, h header) { c.say(h.seq, typeEOF, 100, fill(100, 9)) })
		h.WantClass(h.Do(read(0, sector)), backstore.ClassMedium, "the end of the volume, with data")
		says(func(c *engineConn, h header) { c.say(h.seq, typeEOF, 0, nil) })
		h.WantClass(h.Do(read(0, sector)), backstore.ClassMedium, "the end of the volume")
		// Answered without an error, and not written: all replicas but one have refused, say.
		says(func(c *engineConn, h header) { c.say(h.seq, typeResponse, 0, nil) })
		h.WantClass(h.Do(write(0, page)), backstore.ClassMedium, "a write that wrote nothing")
		// A discard may be left undone.
		says(func(c *engineConn, h header) { c.fail(h.seq, "cannot unmap 4096 bytes at offset 0 "+textGrowing) })
		if err := h.Do(discard(0, sector)); err != nil {
			t.Error(err)
		}
		e.answers(nil)
		h.Write(0, page, 0)
		h.Want(0, page, "afterwards")
		h.Close()
	})
}

// Answers come in any order.
func TestAnyOrder(t *testing.T) {
	bothWays(t, func(t *testing.T, attach bool) {
		e := newEngine(t, 1<<20)
		for i := range e.data {
			e.data[i] = byte(i / sector)
		}
		h, _ := openURI(t, e.uri(""), attach)
		var held []header
		e.answers(func(c *engineConn, h header, _ []byte) bool {
			if held = append(held, h); len(held) == 16 {
				for i := range held {
					c.behave(held[(i*7+3)%16], nil)
				}
				held = nil
			}
			return true
		})
		for range 20 {
			var rs []*backstore.Request
			for i := range int64(16) {
				rs = append(rs, read(i*2*sector, sector*(1+i%3)))
			}
			start(h, rs...)
			ended(h, 16)
			for _, r := range rs {
				if !bytes.Equal(r.Buf, e.data[r.Off:r.Off+r.Len]) {
					t.Fatalf("read at %d", r.Off)
				}
			}
		}
		h.Close()
	})
}

// A socket that is full takes the rest later; what is queued beyond it is the requests.
func TestFullSocket(t *testing.T) {
	bothWays(t, func(t *testing.T, attach bool) {
		e := newEngine(t, 16<<20)
		h, _ := openURI(t, e.uri(""), attach)
		for round := range byte(4) {
			var rs []*backstore.Request
			for i := range int64(16) {
				rs = append(rs, write(i<<20, fill(1<<20, round+byte(i))))
			}
			start(h, rs...)
			ended(h, 16)
			for i := range int64(16) {
				h.Want(i<<20, fill(1<<20, round+byte(i)), "a large write")
			}
		}
		h.Close()
	})
}
