package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator/load"
)

func TestParseTarget(t *testing.T) {
	for _, c := range []struct {
		in, portal, iqn string
		lun             uint16
	}{
		{"iscsi://127.0.0.1:860/iqn.2026-11.example:disk/1", "127.0.0.1:860", "iqn.2026-11.example:disk", 1},
		{"iscsi://host/iqn.2026-11.example:disk/0", "host:3260", "iqn.2026-11.example:disk", 0},
		{"iscsi://[::1]:3261/iqn.2026-11.example:disk/16383", "[::1]:3261", "iqn.2026-11.example:disk", 16383},
		{"iscsi://[::1]/eui.02004567A425678D/300", "[::1]:3260", "eui.02004567A425678D", 300},
	} {
		portal, iqn, lun, err := parseTarget(c.in)
		if err != nil || portal != c.portal || iqn != c.iqn || lun != sam.NewLUN(c.lun) {
			t.Errorf("%s: %s, %s, %v, %v", c.in, portal, iqn, lun, err)
		}
	}
	for _, in := range []string{
		"", "127.0.0.1", "http://h/iqn.x/1", "iscsi:///iqn.x/1", "iscsi://h/iqn.x", "iscsi://h/iqn.x/", "iscsi://h//1", "iscsi://h/iqn.x/16384", "iscsi://h/iqn.x/-1",
		"iscsi://h/iqn.x/1/2", "iscsi://u@h/iqn.x/1", "iscsi://h/iqn.x/1?x=y", "iscsi://h/iqn.x/1#f", "iscsi://h:port/iqn.x/1",
	} {
		if _, _, _, err := parseTarget(in); err == nil || !strings.Contains(err.Error(), "want iscsi://HOST[:PORT]/IQN/LUN") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "512": 512, "4k": 4096, "4K": 4096, "3M": 3 << 20, "2g": 2 << 30, "1T": 1 << 40, "9223372036854775807": 1<<63 - 1} {
		var b byteSize
		if err := b.Set(in); err != nil || int64(b) != want {
			t.Errorf("%s: %d, %v", in, b, err)
		}
		var again byteSize
		if err := again.Set(b.String()); err != nil || again != b {
			t.Errorf("%s is written as %s, which reads as %d, %v", in, b.String(), again, err)
		}
	}
	for _, in := range []string{"", "k", "-1", "1kk", "1.5M", "4x", "9223372036854775808", "8388608T", "4 k"} {
		var b byteSize
		if err := b.Set(in); err == nil {
			t.Errorf("%q reads as %d", in, b)
		}
	}
}

func TestParseRegion(t *testing.T) {
	for in, want := range map[string][2]int64{"": {0, 0}, "1G": {0, 1 << 30}, "512+4k": {512, 4096}} {
		offset, size, err := parseRegion(in)
		if err != nil || offset != want[0] || size != want[1] {
			t.Errorf("%q: %d+%d, %v", in, offset, size, err)
		}
	}
	for _, in := range []string{"x", "0", "1+", "+1", "1+2+3", "4k+0"} {
		if _, _, err := parseRegion(in); err == nil {
			t.Errorf("%q is a region", in)
		}
	}
}

// TestFlagsReachTheConfig runs the flags of the second example and some more through apply.
func TestFlagsReachTheConfig(t *testing.T) {
	cmd := newBench()
	var c load.Config
	f := benchFlags{bs: 4096, firstBurst: 64 << 10, maxBurst: 128 << 10, mrdsl: 8192, seconds: 1.5, warmup: .5, stall: 2, sequential: true, region: "1M+2M", maxR2T: 3, initialR2T: true, dataDigest: true, lenient: true}
	c.Rate = 100
	if err := f.apply(cmd, &c, "iscsi://h/iqn.x/1"); err != nil {
		t.Fatal(err)
	}
	o := c.Options.Offer
	if c.Depth != load.DefaultOpenDepth || c.Duration != 1500*time.Millisecond || c.Warmup != 500*time.Millisecond || c.Stall != 2*time.Second || !c.Sequential || c.Offset != 1<<20 || c.Size != 2<<20 || c.BlockSize != 4096 {
		t.Errorf("config %+v", c)
	}
	if o.FirstBurstLength != 64<<10 || o.MaxBurstLength != 128<<10 || o.MaxRecvDataSegmentLength != 8192 || o.MaxOutstandingR2T != 3 || !o.InitialR2T || o.ImmediateData || !o.DataDigest || o.HeaderDigest || !c.Options.Lenient {
		t.Errorf("offer %+v", *o)
	}
	f.firstBurst = 256 << 10
	if err := f.apply(cmd, &c, "iscsi://h/iqn.x/1"); err == nil || !strings.Contains(err.Error(), "FirstBurstLength") {
		t.Errorf("FirstBurstLength beyond MaxBurstLength: %v", err)
	}
}

// TestExitStatus: 2 for what the command line is to blame for, 1 for a run that failed.
func TestExitStatus(t *testing.T) {
	const url = "iscsi://127.0.0.1:1/iqn.2026-11.example:none/1" // nobody listens on port 1
	for _, c := range []struct {
		want int
		args []string
	}{
		{0, []string{"--version"}},
		{0, []string{"bench", "--help"}},
		{2, []string{"nothing"}},
		{2, []string{"bench"}},
		{2, []string{"bench", url, url}},
		{2, []string{"bench", "--no-such-flag", url}},
		{2, []string{"bench", "--bs", "1000", url}},
		{2, []string{"bench", "--bs", "four", url}},
		{2, []string{"bench", "--seconds", "0", url}},
		{2, []string{"bench", "--seconds", "NaN", url}},
		{2, []string{"bench", "--random", "--sequential", url}},
		{2, []string{"bench", "--region", "x", url}},
		{2, []string{"bench", "iscsi://h/iqn.x"}},
		{1, []string{"bench", "--progress=false", url}},
	} {
		if got := run(context.Background(), c.args, strings.NewReader(""), io.Discard, io.Discard); got != c.want {
			t.Errorf("lunarctl %s exits with %d, want %d", strings.Join(c.args, " "), got, c.want)
		}
	}
}

func TestHelpHasExamples(t *testing.T) {
	root := newRoot()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs([]string{"bench", "--help"})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Examples:", "--fill --region 1G", "Exit status", "--read-percent int", "--bs SIZE", "(default 4k)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in the help", want)
		}
	}
}
