package main

import (
	"context"
	"maps"
	"testing"

	"github.com/lunar-iscsi/lunar/target"
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
			if got := loopsOf(exports); !maps.Equal(got, c.want) {
				t.Fatalf("%v, want %v", got, c.want)
			}
			log, err := newLog("error")
			if err != nil {
				t.Fatal(err)
			}
			defer log.close()
			s, err := target.NewServer(target.Config{})
			if err != nil {
				t.Fatal(err)
			}
			if err := addExports(context.Background(), s, exports, nil, log, nil); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
