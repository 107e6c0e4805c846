package main

import (
	"cmp"
	"context"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

// Targets that have a volume in common share a loop, whichever of their LUNs it is and in whichever order they are named.
func TestSharedVolumes(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return "file://" + dir + "/" + name + "?size=1M" }
	for name, c := range map[string]struct {
		args []string
		want map[string]string
	}{
		"none":                       {[]string{"iqn.2026-11.io.lunar:a=" + file("1"), "iqn.2026-11.io.lunar:b=" + file("2"), "iqn.2026-11.io.lunar:b/2=mem:?size=1M", "iqn.2026-11.io.lunar:a/2=mem:?size=1M"}, map[string]string{}},
		"the second's first LUN":     {[]string{"iqn.2026-11.io.lunar:a=" + file("1"), "iqn.2026-11.io.lunar:b=" + file("1")}, map[string]string{"iqn.2026-11.io.lunar:b": "iqn.2026-11.io.lunar:a"}},
		"the second's second LUN":    {[]string{"iqn.2026-11.io.lunar:a=" + file("1"), "iqn.2026-11.io.lunar:b/1=" + file("2"), "iqn.2026-11.io.lunar:b/2=" + file("1")}, map[string]string{"iqn.2026-11.io.lunar:b": "iqn.2026-11.io.lunar:a"}},
		"the first's LUN comes last": {[]string{"iqn.2026-11.io.lunar:a=" + file("1"), "iqn.2026-11.io.lunar:b/1=" + file("2"), "iqn.2026-11.io.lunar:a/2=" + file("2")}, map[string]string{"iqn.2026-11.io.lunar:b": "iqn.2026-11.io.lunar:a"}},
		"by a third": {[]string{"iqn.2026-11.io.lunar:a/1=" + file("1"), "iqn.2026-11.io.lunar:b/1=" + file("2"), "iqn.2026-11.io.lunar:c/1=" + file("2"), "iqn.2026-11.io.lunar:c/2=" + file("1")},
			map[string]string{"iqn.2026-11.io.lunar:b": "iqn.2026-11.io.lunar:a", "iqn.2026-11.io.lunar:c": "iqn.2026-11.io.lunar:a"}},
	} {
		t.Run(name, func(t *testing.T) {
			exports, err := parseExports(c.args)
			if err != nil {
				t.Fatal(err)
			}
			doc, err := document(exports, nil)
			if err != nil {
				t.Fatal(err)
			}
			m, err := admin.New(admin.Config{Registry: drivers()})
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Passing(context.Background(), doc); err != nil {
				t.Error(err)
			}
			for _, a := range doc.Targets {
				for _, b := range doc.Targets {
					want := cmp.Or(c.want[a.Name], a.Name) == cmp.Or(c.want[b.Name], b.Name)
					if got := m.Server().Target(a.Name).SharesLoop(m.Server().Target(b.Name)); got != want {
						t.Errorf("%s and %s share a loop: %v, want %v", a.Name, b.Name, got, want)
					}
				}
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// The options that are the disk's do not reach the driver, and the others do.
func TestDiskOptions(t *testing.T) {
	for uri, want := range map[string]string{
		"mem:?size=1M": "mem:?size=1M",
		"file:///a%26b?size=1M&blocksize=4096&serial=x&thin=off": "file:///a%26b?size=1M&thin=off",
		"null:?readonly": "null:",
		"null:?timeout=1s&on_timeout=error&size=1M&away=offline": "null:?size=1M",
		"file:///a?readonly=on":                                  "file:///a",
		"nbd+unix:///?socket=/serial=":                           "nbd+unix:///?socket=/serial=",
	} {
		if got := without(uri, diskOptions[:]); got != want {
			t.Errorf("%s: %s, want %s", uri, got, want)
		}
	}
}

// TestTimeoutOptions: what becomes of commands that wait, and of a volume that is away, can be said of an export; the command line wants to
// hear of a volume that cannot be opened, unless it says otherwise.
func TestTimeoutOptions(t *testing.T) {
	for uri, want := range map[string]spec.LUN{
		"null:": {Away: spec.AwayFail},
		"null:?timeout=90s&on_timeout=error&away=offline": {Timeout: 90, OnTimeout: spec.TimeoutError, Away: spec.AwayOffline},
		"null:?timeout=24h&on_timeout=wait&away=fail":     {Timeout: spec.MaxTimeout, OnTimeout: spec.TimeoutWait, Away: spec.AwayFail},
	} {
		e, err := parseExport("iqn.2026-11.io.lunar:a=" + uri)
		if err != nil {
			t.Fatal(err)
		}
		if l, err := e.disk(); err != nil || l.Timeout != want.Timeout || l.OnTimeout != want.OnTimeout || l.Away != want.Away || l.Volume != "null:" {
			t.Errorf("%s: %+v, %v", uri, l, err)
		}
	}
	for _, option := range []string{"timeout=0s", "timeout=1", "timeout=1500ms", "timeout=25h", "timeout=-1s", "on_timeout=", "on_timeout=retry", "away=yes"} {
		e, err := parseExport("iqn.2026-11.io.lunar:a=null:?" + option)
		if err != nil {
			t.Fatal(err)
		}
		if l, err := e.disk(); err == nil {
			t.Errorf("%s was taken: %+v", option, l)
		} else if name, _, _ := strings.Cut(option, "="); !strings.Contains(err.Error(), "option "+name) {
			t.Errorf("%s: %v", option, err)
		}
	}
}
