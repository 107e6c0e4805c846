package main

import (
	"cmp"
	"context"
	"testing"

	"github.com/lunar-iscsi/lunar/admin"
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
		"null:?readonly":               "null:",
		"file:///a?readonly=on":        "file:///a",
		"nbd+unix:///?socket=/serial=": "nbd+unix:///?socket=/serial=",
	} {
		if got := without(uri, diskOptions[:]); got != want {
			t.Errorf("%s: %s, want %s", uri, got, want)
		}
	}
}
