package scsi

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestTgtNames: vendor, product, revision, serial number and designators of what is named as tgt names it are byte for byte what
// tgtd 1.0.85 answered with the same settings.
func TestTgtNames(t *testing.T) {
	b, err := os.ReadFile("testdata/tgtd-names.txt")
	if err != nil {
		t.Fatal(err)
	}
	var lu *LU
	seen, unit := 0, ""
	for _, line := range strings.Split(string(b), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "tid=") {
			lu, unit = tgtUnit(t, line), line
			continue
		}
		what, text, _ := strings.Cut(line, " ")
		want := unhex(t, text)
		cdb := map[string]string{"std": "12 00 00 00ff 00", "vpd80": "12 01 80 00ff 00", "vpd83": "12 01 83 00ff 00"}[what]
		c := &Command{CDB: unhex(t, cdb)}
		if !lu.Prepare(c) || lu.Execute(c) != Done || result(c) != "good" {
			t.Fatalf("%s: %s", unit, result(c))
		}
		got := c.Data
		if what == "std" {
			// The names; of the rest lunar knows better (versions, and what it can do). Byte 0 and 1: type and RMB.
			got, want = append(bytes.Clone(got[:2]), got[8:36]...), append(bytes.Clone(want[:2]), want[8:36]...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s, %s:\n got %x\nwant %x", unit, what, got, want)
		}
		seen++
	}
	if seen < 3*10 {
		t.Errorf("only %d answers were compared", seen)
	}
}

// tgtUnit makes the logical unit that a line of tgtd-names.txt tells of.
func tgtUnit(t *testing.T, line string) *LU {
	t.Helper()
	cfg := DiskConfig{TgtNaming: true, Identity: "whatever"}
	controller := false
	for _, f := range strings.Fields(line) {
		key, value, _ := strings.Cut(f, "=")
		var err error
		switch key {
		case "tid":
			_, err = fmt.Sscan(value, &cfg.TID)
		case "lun":
			_, err = fmt.Sscan(value, &cfg.LUN)
		case "vendor":
			cfg.Vendor = value
		case "product":
			cfg.Product = value
		case "revision":
			cfg.Revision = value
		case "serial":
			cfg.Serial = value
		case "scsi_id":
			cfg.SCSIID = value
		case "controller":
			controller = true
		default:
			err = fmt.Errorf("%q means nothing", f)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if controller {
		return NewController(ControllerConfig{TgtNaming: true, TID: cfg.TID, Identity: "whatever"})
	}
	st := newTestStore(t, 1<<20)
	if cfg.LUN == 6 { // was made without a volume
		lu, err := NewDisk(nil, &testHost{}, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return lu
	}
	lu, err := NewDisk(st, &testHost{}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return lu
}

// TestTgtNamesBounds: what would not fit is refused, and says why.
func TestTgtNamesBounds(t *testing.T) {
	for _, k := range []struct {
		cfg  DiskConfig
		want string
	}{
		{DiskConfig{TgtNaming: true, TID: -1}, "target number -1"},
		{DiskConfig{TgtNaming: true, TID: 1 << 28}, "room for"},
		{DiskConfig{TgtNaming: true, SCSIID: strings.Repeat("x", 37)}, "SCSI ID"},
		{DiskConfig{TgtNaming: true, SCSIID: "caf\xe9"}, "SCSI ID"},
	} {
		_, err := NewDisk(newTestStore(t, 1<<20), &testHost{}, k.cfg)
		if err == nil || !strings.Contains(err.Error(), k.want) {
			t.Errorf("%+v: %v, want %q", k.cfg, err, k.want)
		}
	}
}
