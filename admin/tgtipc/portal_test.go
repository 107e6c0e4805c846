package tgtipc

import (
	"fmt"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

func TestResolvePortal(t *testing.T) {
	for s, want := range map[string]string{
		"192.0.2.1":            "[192.0.2.1:3260]",
		"192.0.2.1:13260":      "[192.0.2.1:13260]",
		"[2001:db8::1]":        "[[2001:db8::1]:3260]",
		"[2001:db8::1]:1":      "[[2001:db8::1]:1]",
		"2001:db8::1":          "[[2001:db8::1]:3260]",
		"[::ffff:192.0.2.1]:0": "[192.0.2.1:0]",
		":3261":                "[0.0.0.0:3261 [::]:3261]",
		"":                     "[]",
		"192.0.2.1:65536":      "error",
		"192.0.2.1:x":          "error",
		"[2001:db8::1:1":       "error",
		"2001:db8::1::2":       "error",
	} {
		addrs, err := ResolvePortal(t.Context(), s)
		got := fmt.Sprint(addrs)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s (%v), want %s", s, got, err, want)
		}
	}
}

// Of a list all portals are opened, or none.
func TestPortalsAllOrNone(t *testing.T) {
	r := started(t)
	before := r.Portals()
	r.fails(t, ErrInvalidRequest, "--mode portal --op new --param portal=127.0.0.1:1,portal=127.0.0.1:2,portal=203.0.113.9:3")
	if after := r.Portals(); len(after) != len(before) {
		t.Errorf("%v were left", after)
	}
	r.fails(t, ErrInvalidRequest, "--mode portal --op new --param nop_interval=-1,portal=127.0.0.1:1,nop_interval=-1")
	r.must(t, "--mode portal --op new --param portal=127.0.0.1:1,nop_interval=5,nop_count=6")
	if s := r.Document().System; s.NopInterval != 5 || s.NopCount != 6 {
		t.Errorf("%+v", s)
	}
	r.must(t, "--mode target --op new --tid 4 -T iqn.a")
	if tg := r.Document().Targets[0]; tg.NopInterval != 5 || tg.NopCount != 6 {
		t.Errorf("%+v", tg)
	}
	// Of a name one address is enough; it is closed by its address.
	r.must(t, "--mode portal --op new --param portal=localhost:9")
	r.fails(t, ErrInvalidRequest, "--mode portal --op delete --param portal=localhost:9")
	r.fails(t, ErrInvalidRequest, "--mode portal --op delete --param portal=localhost")
	r.must(t, "--mode portal --op delete --param portal=127.0.0.1:9")
	r.fails(t, ErrInvalidRequest, "--mode portal --op new --param portal=nosuch:9")
	r.must(t, "--mode portal --op new --param portal=:7")
	r.must(t, "--mode portal --op delete --param portal=:7,portal=127.0.0.1:1")
	if after := r.Portals(); len(after) != len(before) {
		t.Errorf("%v are left", after)
	}
}

// A driver that cannot have its portals again stays stopped, and keeps them for the next try.
func TestDriverStaysStopped(t *testing.T) {
	r := started(t)
	r.must(t, "--mode portal --op new --param portal=127.0.0.1:2")
	r.must(t, "--mode lld --op stop")
	if _, err := r.AddPortal(t.Context(), spec.Portal{Address: "127.0.0.1:2"}); err != nil {
		t.Fatal(err)
	}
	r.fails(t, ErrUnknown, "--mode lld --op start")
	if n := len(r.Portals()); n != 1 {
		t.Errorf("%d portals, want only the one in the way", n)
	}
	r.fails(t, ErrNoDriver, "--lld iscsi --mode target --op show")
	if err := r.RemovePortal(t.Context(), r.Portals()[0].Bound); err != nil {
		t.Fatal(err)
	}
	r.must(t, "--mode lld --op start")
	if n := len(r.Portals()); n != 2 {
		t.Errorf("%d portals after the start", n)
	}
}

// iSNS is kept and shown, and not turned on.
func TestISNS(t *testing.T) {
	r := started(t)
	r.must(t, "--mode sys --op update -n iSNSServerIP -v 192.0.2.1")
	r.fails(t, ErrUnsupported, "--mode sys --op update -n iSNS -v On")
	r.must(t, "--mode sys --op update -n iSNS -v Off")
}

// Of a list of settings everything that is right is done, and the last one says how it went.
func TestSystemLists(t *testing.T) {
	r := started(t)
	update := func(list string, no Errno, offline bool) {
		t.Helper()
		_, err := r.do(Header{Mode: ModeSystem, Op: OpUpdate}, list)
		if (err == nil) != (no == Success) || err != nil && errnoOf(err) != no || r.Document().System.Offline != offline {
			t.Errorf("%s: %v, offline %v", list, err, r.Document().System.Offline)
		}
	}
	update("foo=1,State=offline", Success, true)
	update("State=ready,foo=1", ErrInvalidRequest, false)
	update("State=offline,iSNS=On", ErrUnsupported, true)
	update("State=bogus,State=ready,", Success, false)
}
