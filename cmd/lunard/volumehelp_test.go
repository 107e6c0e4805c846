package main

import (
	"strings"
	"testing"
)

// --help names every driver but that of tests, says how its volumes are named and what it is, and fits a terminal.
func TestVolumeHelp(t *testing.T) {
	help := volumeHelp()
	for _, d := range drivers().Drivers() {
		name, what, ok := strings.Cut(d.Help, " — ")
		if !ok || !strings.HasPrefix(name, d.Scheme+":") || what == "" {
			t.Errorf("%s: its help is %q, want SCHEME:VOLUME — what it is; options", d.Scheme, d.Help)
		}
		if strings.Contains(help, "\n  "+name+"\n") == (d.Scheme == "faulty") && !strings.HasPrefix(help, "  "+name+"\n") {
			t.Errorf("%s: %s", d.Scheme, help)
		}
	}
	for line := range strings.Lines(help) {
		if len(line) > helpWidth+1 {
			t.Errorf("%d characters: %s", len(line), line)
		}
	}
	if !strings.Contains(long(), help) {
		t.Error("lunard --help does not have it")
	}
}
