package libiscsi

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore/mem"
	"github.com/lunar-iscsi/lunar/scsi"
	core "github.com/lunar-iscsi/lunar/target"
	"github.com/lunar-iscsi/lunar/test/deps"
)

const (
	accessTarget = "iqn.2026-11.io.lunar:access"
	reader       = "iqn.2026-11.example:reader"
)

// server is a server in this process, with disks of these sizes in MiB at LUN 1 and up, and its portal.
func server(t *testing.T, sizes ...int64) (*core.Server, *core.Target, string) {
	t.Helper()
	s, err := core.NewServer(core.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	tg, err := s.AddTarget(accessTarget, core.TargetConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for i, size := range sizes {
		st, err := mem.New(mem.Config{Size: size << 20, BlockSize: 512})
		if err != nil {
			t.Fatal(err)
		}
		if err := tg.AddDisk(uint16(i+1), st, scsi.DiskConfig{Identity: fmt.Sprint(accessTarget, i), Product: fmt.Sprintf("disk %d", i+1)}); err != nil {
			t.Fatal(err)
		}
	}
	addr, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	return s, tg, addr.String()
}

// say runs one of libiscsi's tools and returns what it writes.
func say(t *testing.T, tool string, args ...string) (string, error) {
	t.Helper()
	out, err := deps.Find(t, tool).Command(t.Context(), args...).CombinedOutput()
	return string(out), err
}

// TestAccessOfTools: libiscsi's own tools see what the configuration shows them, follow where it sends them, and are refused where it
// does not admit them.
func TestAccessOfTools(t *testing.T) {
	_, here, portal := server(t, 1, 2, 3)
	_, there, elsewhere := server(t, 8)
	configure := func(tg *core.Target, cfg core.TargetConfig) {
		t.Helper()
		if err := tg.Configure(cfg); err != nil {
			t.Fatal(err)
		}
	}
	luns := func() (list []string) {
		t.Helper()
		out, err := say(t, "iscsi-ls", "-s", "-i", reader, "iscsi://"+portal)
		if err != nil {
			t.Fatal(err, out)
		}
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[0], "Lun:") {
				list = append(list, f[0]+" "+strings.Join(f[1:], " "))
			}
		}
		return list
	}
	all := luns()
	if len(all) < 3 {
		t.Fatalf("without a mask: %q", all)
	}
	configure(here, core.TargetConfig{Masks: []core.Mask{{Initiator: reader, LUNs: []core.MaskLUN{{As: 1, LUN: 3}, {As: 9, LUN: 1}}}}})
	size := func(lun string) string {
		i := slices.IndexFunc(all, func(l string) bool { return strings.HasPrefix(l, "Lun:"+lun+" ") })
		if i < 0 {
			t.Fatalf("no LUN %s in %q", lun, all)
		}
		_, rest, _ := strings.Cut(all[i], " ")
		return rest
	}
	masked := slices.DeleteFunc(luns(), func(l string) bool { return strings.HasPrefix(l, "Lun:0 ") }) // the controller
	if want := []string{"Lun:1 " + size("3"), "Lun:9 " + size("1")}; !slices.Equal(masked, want) {
		t.Errorf("with a mask: %q, want %q", masked, want)
	}
	inquire := func(args ...string) (string, error) {
		return say(t, "iscsi-inq", append([]string{"-i", reader}, append(args, fmt.Sprintf("iscsi://%s/%s/1", portal, accessTarget))...)...)
	}
	if out, err := inquire(); err != nil || !strings.Contains(out, "disk 3") {
		t.Errorf("through the mask: %v, %s", err, out)
	}
	host, port, _ := strings.Cut(elsewhere, ":")
	var to uint16
	if _, err := fmt.Sscan(port, &to); err != nil {
		t.Fatal(err)
	}
	configure(here, core.TargetConfig{Redirect: core.Redirect{Address: host, Port: to}})
	if out, err := inquire(); err != nil || !strings.Contains(out, "disk 1") || there.Info().Commands.Commands == 0 {
		t.Errorf("sent elsewhere: %v, %s", err, out)
	}
	configure(here, core.TargetConfig{Access: &core.Access{Rules: []core.Rule{{Initiator: "iqn.other"}}}})
	if out, err := inquire(); err == nil {
		t.Errorf("not admitted: %s", out)
	}
	if out, err := say(t, "iscsi-ls", "-i", reader, "iscsi://"+portal); err != nil || strings.Contains(out, accessTarget) {
		t.Errorf("discovery, not admitted: %v, %s", err, out)
	}
}

// TestReadOnlyNexus runs the suite's tests of a write-protected disk as an initiator that may only read a disk which others may write.
func TestReadOnlyNexus(t *testing.T) {
	tool := deps.Find(t, "iscsi-test-cu")
	_, tg, portal := server(t, 64)
	cfg := core.TargetConfig{Access: &core.Access{Rules: []core.Rule{{Initiator: "iqn.*:iscsi-test*", ReadOnly: true}}}}
	if err := tg.Configure(cfg); err != nil {
		t.Fatal(err)
	}
	r := &Runner{Tool: tool, Limit: testLimit, URL: fmt.Sprintf("iscsi://%s/%s/1", portal, accessTarget)}
	r.URL2 = r.URL
	const test = "SCSI.ReadOnly.ReadOnlySBC"
	o := r.Run(t.Context(), test)
	t.Logf("%s: %s, %d assertions, %v", test, o.Verdict, o.Asserts, o.Elapsed.Round(time.Millisecond))
	if o.Verdict != Pass || o.Asserts < 10 {
		t.Errorf("%s: %s\n%s", test, o.Verdict, tail(o.Output, 40))
	}
	// The same where it may write is a test that does not fit.
	cfg.Access.Rules[0].ReadOnly = false
	if err := tg.Configure(cfg); err != nil {
		t.Fatal(err)
	}
	if o := r.Run(t.Context(), test); o.Verdict != Skip {
		t.Errorf("where it may write: %s\n%s", o.Verdict, tail(o.Output, 40))
	}
}
