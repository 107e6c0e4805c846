package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

func TestTgtdCommandLine(t *testing.T) {
	t.Setenv(stateEnv, "/from/env")
	for args, status := range map[string]int{
		"-f": 0, "-fC5": 0, "--fore -C 0x7 -d 1 -t 4 stray": 0, "-C 5x": 0, "-C x": exitInvalid, "-C -1": exitInvalid, "-C 32768": exitRange, "-d 2": exitRange, "-t 0": exitRange,
		"-t x": exitInvalid, "--nosuch": exitFailed, "--iscsi=portal=192.0.2.1": exitFailed, "-C": exitFailed, "-Z": exitFailed, "--no": 0,
		"--n 4": exitFailed, // two words begin so
	} {
		_, err := parseTgtd(strings.Fields(args))
		got := 0
		if e := (*exitError)(nil); errors.As(err, &e) {
			got = e.status
			if !strings.HasSuffix(e.text, tryHelp) {
				t.Errorf("%s: %q", args, e.text)
			}
		}
		if got != status {
			t.Errorf("%s: status %d (%v), want %d", args, got, err, status)
		}
	}
	options := func(args ...string) *options {
		t.Helper()
		d, err := parseTgtd(args)
		if err != nil {
			t.Fatal(err)
		}
		o, err := d.options(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := options("-f", "-C", "7", "-d", "1", "--iscsi", "portal=192.0.2.9", "--iscsi", "portal=127.0.0.1:13260,portal=:3261,nop_interval=5,", "--iser", "x", "--lunar", "max-sessions=3",
		"--lunar", "log-level=error")
	if want := []string{"127.0.0.1:13260", "0.0.0.0:3261", "[::]:3261"}; !slices.Equal(o.portals, want) {
		t.Errorf("portals %v, want %v", o.portals, want)
	}
	if o.tgt.port != 7 || !o.tgtOn() || o.cfg.StateDir != "/from/env" || o.cfg.MaxSessions != 3 || o.logLevel != "error" {
		t.Errorf("%+v", o)
	}
	s := spec.System{NopCount: 9}
	if err := o.tgt.edit(&s); err != nil || !s.Debug || s.NopInterval != 5 || s.NopCount != 9 {
		t.Errorf("%+v, %v", s, err)
	}
	if o := options("-f", "--lunar-state", "/given"); o.cfg.StateDir != "/given" || o.tgt.port != 0 || len(o.portals) != 0 || o.logLevel != "info" {
		t.Errorf("%+v", o)
	}
	for _, bad := range [][]string{{"--iscsi", "portal=[::1"}, {"--iscsi", "nop_count=-1"}, {"--lunar", "nosuch=1"}} {
		d, err := parseTgtd(bad)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.options(t.Context()); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	for name, want := range map[string]bool{"tgtd": true, "/usr/sbin/tgtd": true, "lunard": false, "/tgtd/lunard": false} {
		if isTgtd(name) != want {
			t.Errorf("called %s", name)
		}
	}
}
