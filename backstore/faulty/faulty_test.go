package faulty_test

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
	"github.com/lunar-iscsi/lunar/backstore/faulty"
	"github.com/lunar-iscsi/lunar/backstore/mem"
)

func newMem(t *testing.T, size int64) *mem.Store {
	t.Helper()
	st, err := mem.New(mem.Config{Size: size, BlockSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func newFaulty(t *testing.T, rules string) *faulty.Store {
	t.Helper()
	f, err := faulty.New(newMem(t, 4<<20), rules)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Without a rule that strikes, and with rules that only hold requests back, it is a store like any other.
func TestStore(t *testing.T) {
	for _, rules := range []string{"", "any wouldblock", "any pending", "stall=1ms every=3ms"} {
		t.Run(strings.ReplaceAll(rules, " ", "_"), func(t *testing.T) {
			backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
				f, err := faulty.New(unclaimed{newMem(t, size), rules == "any wouldblock" || rules == "any pending"}, rules)
				if err != nil {
					t.Fatal(err)
				}
				return f
			}, backstoretest.Options{Allocates: true})
		})
	}
}

// unclaimed is a store that does not claim NoWait, for rules under which that is true.
type unclaimed struct {
	*mem.Store
	drop bool
}

func (u unclaimed) Info() backstore.Info {
	i := u.Store.Info()
	if u.drop {
		i.Caps &^= backstore.CapNoWaitRead | backstore.CapNoWaitWrite
	}
	return i
}

func TestRules(t *testing.T) {
	// What each of nine requests comes to: three reads at 0, three writes at 1M, two writes at 0 (the
	// second with FUA), a discard. A letter is an error of that class, a dot is none.
	for rules, want := range map[string]string{
		"":                                  ".........",
		"error=medium":                      "mmmmmmmmm",
		"any error=medium":                  "mmmmmmmmm",
		"read error=medium":                 "mmm......",
		"read error=medium every=3":         "..m......",
		"read error=medium every=2 after=1": "..m......",
		"write error=nospace after=1":       "....nnnnm", // an error of a FUA write is sticky
		"write error=nospace count=2":       "...nn....",
		"write error=nospace off=1M":        "...nnn...",
		"write error=nospace off=1M len=1K": "...nnn...",
		"write error=nospace len=1M":        "......nnm",
		"write error=nospace off=2M len=4K": ".........",
		"discard error=offline":             "........o",
		"write error=offline fua":           ".......om",
		// The first rule that fits decides, also once it is used up.
		"read error=busy count=1; read error=offline\nwrite,error=fenced,after=2": "b....fffm",
	} {
		f := newFaulty(t, rules)
		h := backstoretest.NewHarness(t, f, false)
		got := ""
		for n := range 9 {
			r := &backstore.Request{Op: backstore.Read, Len: 512, Buf: h.Buf(512)}
			switch {
			case n == 8:
				r.Op, r.Buf = backstore.Discard, nil
			case n > 5:
				r.Op = backstore.Write
			case n > 2:
				r.Op, r.Off = backstore.Write, 1<<20
			}
			if n == 7 {
				r.Flags = backstore.FUA
			}
			if err := h.Do(r); err == nil {
				got += "."
			} else {
				got += map[backstore.Class]string{backstore.ClassMedium: "m", backstore.ClassNoSpace: "n", backstore.ClassOffline: "o", backstore.ClassBusy: "b", backstore.ClassFenced: "f"}[backstore.ClassOf(err)]
			}
		}
		if got != want {
			t.Errorf("%q: %s, want %s", rules, got, want)
		}
		h.Close()
	}
}

func TestBadRules(t *testing.T) {
	for _, rules := range []string{"read", "read eror=medium", "error=small", "delay=", "delay=-1s", "delay=0s", "stall=1s", "stall=2s every=1s", "read delay=1s every=1s",
		"hang delay=1s", "read write error=medium", "error=medium every=0", "error=medium count=0", "error=medium after=x", "error=medium off=x", "fua"} {
		st := newMem(t, 1<<20)
		if _, err := faulty.New(st, rules); err == nil || !strings.Contains(err.Error(), "fault rule") {
			t.Errorf("%q: %v", rules, err)
		}
	}
}

// A delayed request waits, Submit does not, and requests that no rule fits pass it.
func TestDelay(t *testing.T) {
	f := newFaulty(t, "write delay=30ms")
	h := backstoretest.NewHarness(t, f, true)
	b := bytes.Repeat([]byte{1}, 512)
	begin := time.Now()
	w := &backstore.Request{Op: backstore.Write, Len: 512, Buf: b}
	if out := h.Start(w); out != backstore.Pending {
		t.Fatalf("outcome %d", out)
	}
	h.Want(0, make([]byte, 512), "while a write is delayed")
	if h.Wait() != w || w.Err != nil {
		t.Fatal(w.Err)
	}
	if d := time.Since(begin); d < 30*time.Millisecond {
		t.Errorf("a delay of 30 ms took %v", d)
	}
	h.Want(0, b, "after the delay")
	h.Close()
}

// A hung write is made when it is released, in one piece with what came in between.
func TestHang(t *testing.T) {
	for _, attach := range []bool{false, true} {
		backstoretest.CheckLeaks(t)
		f := newFaulty(t, "write hang off=4K len=4K count=2")
		h := backstoretest.NewHarness(t, f, attach)
		late, other := bytes.Repeat([]byte{1}, 512), bytes.Repeat([]byte{2}, 512)
		var hung [2]*backstore.Request
		for i := range hung {
			hung[i] = &backstore.Request{Op: backstore.Write, Off: 4096 + int64(i)*512, Len: 512, Buf: late}
			// Such a request would block; asking is not counted by the rule.
			hung[i].Flags = backstore.NoWait
			if out := h.Start(hung[i]); out != backstore.WouldBlock {
				t.Fatalf("with NoWait: outcome %d", out)
			}
			hung[i].Flags = 0
			if out := h.Start(hung[i]); out != backstore.Pending {
				t.Fatalf("outcome %d", out)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := f.Wait(ctx, 2); err != nil || f.Held() != 2 || f.Hits() != 2 {
			t.Fatalf("%v, %d held, %d hits", err, f.Held(), f.Hits())
		}
		h.Write(8192, other, 0)
		h.Write(4096, other, 0) // an overlapping one, which an LU would not let through
		h.Want(4096, other, "before the late write")
		if n := f.Release(); n != 2 || f.Held() != 0 || f.Release() != 0 {
			t.Errorf("%d were released, %d are held", n, f.Held())
		}
		for range hung {
			if r := h.Wait(); r.Err != nil {
				t.Error(r.Err)
			}
		}
		h.Want(4096, append(late, late...), "the late writes")
		h.Close()
	}
}

// A hung request can end with an error instead: then it is never applied.
func TestFail(t *testing.T) {
	f := newFaulty(t, "write hang; read hang count=1")
	h := backstoretest.NewHarness(t, f, true)
	w := &backstore.Request{Op: backstore.Write, Len: 512, Buf: bytes.Repeat([]byte{1}, 512)}
	r := &backstore.Request{Op: backstore.Read, Off: 512, Len: 512, Buf: h.Buf(512)}
	h.Start(w)
	h.Start(r)
	if n := f.Fail(backstore.ClassTransport); n != 2 {
		t.Errorf("%d were failed", n)
	}
	for range 2 {
		h.WantClass(h.Wait().Err, backstore.ClassTransport, "a failed request")
	}
	h.Want(0, make([]byte, 512), "after a write that failed")
	h.Close()
}

// During a stall everything waits for its end; NoWait is refused.
func TestStall(t *testing.T) {
	f := newFaulty(t, "stall=20ms every=20ms") // stalls end where the next begins
	h := backstoretest.NewHarness(t, f, true)
	r := &backstore.Request{Op: backstore.Read, Flags: backstore.NoWait, Len: 512, Buf: h.Buf(512)}
	if out := h.Start(r); out != backstore.WouldBlock {
		t.Errorf("with NoWait: outcome %d", out)
	}
	r.Flags = 0
	if out := h.Start(r); out != backstore.Pending {
		t.Errorf("outcome %d", out)
	}
	if h.Wait() != r || r.Err != nil || f.Hits() != 1 {
		t.Errorf("after the stall: %v, %d hits", r.Err, f.Hits())
	}
	h.Close()
}

// The daemon's way in: an inner URI, percent-encoded, and rules.
func TestDriver(t *testing.T) {
	reg := backstore.NewRegistry(mem.Driver())
	all := backstore.NewRegistry(mem.Driver(), faulty.Driver(reg))
	open := func(uri string) (backstore.Store, error) {
		u, err := backstore.ParseURI(uri)
		if err != nil {
			t.Fatal(err)
		}
		return all.Open(context.Background(), u, backstore.Options{})
	}
	st, err := open("faulty:?inner=" + url.QueryEscape("mem:?size=1M") + "&rule=read,error=integrity,off=4K;write,error=offline")
	if err != nil {
		t.Fatal(err)
	}
	h := backstoretest.NewHarness(t, st, true)
	h.Want(0, make([]byte, 512), "a good range")
	h.WantClass(h.Do(&backstore.Request{Op: backstore.Read, Off: 4096, Len: 512, Buf: h.Buf(512)}), backstore.ClassIntegrity, "a bad range")
	h.WantClass(h.Do(&backstore.Request{Op: backstore.Write, Len: 512, Buf: h.Buf(512)}), backstore.ClassOffline, "a write")
	h.Close()
	for uri, says := range map[string]string{
		"faulty:":               "inner=URI",
		"faulty:?inner=x":       "SCHEME:VOLUME",
		"faulty:?inner=none%3A": "no driver",
		"faulty:?inner=mem%3A":  "needs a size",
		"faulty:?inner=mem%3A%3Fsize%3D1M&rule=read":  "no action",
		"faulty:?inner=mem%3A%3Fsize%3D1M%26sise%3D2": `no option "sise"`,
	} {
		if _, err := open(uri); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", uri, err, says)
		}
	}
}

func TestSet(t *testing.T) {
	f := newFaulty(t, "read error=medium")
	h := backstoretest.NewHarness(t, f, false)
	h.WantClass(h.Do(&backstore.Request{Op: backstore.Read, Len: 512, Buf: h.Buf(512)}), backstore.ClassMedium, "a read")
	if err := f.Set("nonsense"); err == nil {
		t.Error("nonsense was taken")
	}
	if err := f.Set(""); err != nil {
		t.Fatal(err)
	}
	h.Want(0, make([]byte, 512), "without rules")
	if err := f.Resize(context.Background(), 8<<20); err != nil || f.Info().Size != 8<<20 {
		t.Errorf("resize: %v, size %d", err, f.Info().Size)
	}
	h.Close()
}

func Example() {
	inner, err := mem.New(mem.Config{Size: 1 << 20})
	if err != nil {
		fmt.Println(err)
		return
	}
	st, err := faulty.New(inner, "read error=medium every=2")
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		r := &backstore.Request{Op: backstore.Read, Len: 4096, Buf: make([]byte, 4096)}
		st.Submit(r)
		fmt.Println(r.Err)
	}
	// Output:
	// <nil>
	// read: medium error: injected fault
}
