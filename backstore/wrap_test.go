package backstore_test

import (
	"context"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/faulty"
	"github.com/lunar-iscsi/lunar/backstore/null"
	"github.com/lunar-iscsi/lunar/backstore/traced"
)

// An able store takes part in snapshots and fences others.
type able struct{ backstore.Store }

func (able) Snapshot(context.Context, string, backstore.Progress) error { return nil }
func (able) Fence(context.Context) error                                { return nil }

// What a store can do besides is found behind any number of wrappers, and nowhere that it is not.
func TestBehindWrappers(t *testing.T) {
	for _, can := range []bool{true, false} {
		u, err := backstore.ParseURI("null:?size=1M")
		if err != nil {
			t.Fatal(err)
		}
		st, err := backstore.NewRegistry(null.Driver()).Open(t.Context(), u, backstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if can {
			st = able{st}
		}
		f, err := faulty.New(st, "")
		if err != nil {
			t.Fatal(err)
		}
		for name, st := range map[string]backstore.Store{"bare": st, "faulty": f, "traced faulty": traced.New(f, "x", func(string) {})} {
			if got := backstore.SnapshotterOf(st) != nil; got != can {
				t.Errorf("%s: a Snapshotter: %v, want %v", name, got, can)
			}
			if got := backstore.FencerOf(st) != nil; got != can {
				t.Errorf("%s: a Fencer: %v, want %v", name, got, can)
			}
		}
		if err := f.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if backstore.SnapshotterOf(nil) != nil || backstore.FencerOf(nil) != nil {
		t.Error("no store can do something")
	}
}

// A volume with faults is the same volume, so that it is opened once.
func TestFaultyKey(t *testing.T) {
	inner := backstore.NewRegistry(backstore.Driver{Scheme: "x", Key: func(u *backstore.URI) string { return "x " + u.Path }}, null.Driver())
	reg := backstore.NewRegistry(faulty.Driver(inner))
	for uri, want := range map[string]string{"faulty:?inner=x%3Aa&rule=any%20hang": "x a", "faulty:?inner=x%3Ab": "x b", "faulty:?inner=null%3A%3Fsize%3D1M": "", "faulty:": "", "faulty:?inner=%25zz": ""} {
		u, err := backstore.ParseURI(uri)
		if err != nil {
			t.Fatal(err)
		}
		if got := reg.Key(u); got != want {
			t.Errorf("%s: %q, want %q", uri, got, want)
		}
	}
}
