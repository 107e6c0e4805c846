package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/test/deps"
	"github.com/lunar-iscsi/lunar/test/gauge"
)

func startLunar(b *bench, ctx context.Context, s *server, u *setup) error {
	_, portal, err := loopback()
	if err != nil {
		return err
	}
	args := append([]string{b.lunard, "--portal", portal}, u.args...)
	for i, f := range u.files {
		uri := (&url.URL{Scheme: "file", Path: f}).String()
		if u.direct {
			uri += "?direct=on"
		}
		args = append(args, "--export", fmt.Sprintf("%s/1=%s", u.iqn(i), uri))
		s.ends = append(s.ends, endpoint{portal, u.iqn(i), 1})
	}
	if u.stall {
		q := url.Values{"inner": {"mem:?size=64M"}, "rule": {"any stall=200ms every=500ms"}}
		args = append(args, "--export", fmt.Sprintf("%s/2=faulty:?%s", u.iqn(0), strings.ReplaceAll(q.Encode(), "+", "%20")))
		s.stalled = &endpoint{portal, u.iqn(0), 2}
	}
	s.about = "lunard " + b.revision
	if err := s.spawn(u, lunar, nil, args...); err != nil {
		return err
	}
	return s.ready(ctx, portal)
}

// startFloor starts one floor a file: it serves one file each.
func startFloor(b *bench, ctx context.Context, s *server, u *setup) error {
	s.about = "test/floor"
	for i, f := range u.files {
		_, portal, err := loopback()
		if err != nil {
			return err
		}
		if err := s.spawn(u, floor, nil, b.floor, "--listen", portal, "--file", f); err != nil {
			return err
		}
		if err := s.ready(ctx, portal); err != nil {
			return err
		}
		s.ends = append(s.ends, endpoint{portal, u.iqn(i), 1})
	}
	return nil
}

// startOther starts a server that the user named, by a command with {port} and {file}; one a file, as the floor.
func startOther(name, command string) starter {
	return func(_ *bench, ctx context.Context, s *server, u *setup) error {
		s.about = strings.Fields(command)[0]
		for i, f := range u.files {
			port, portal, err := loopback()
			if err != nil {
				return err
			}
			args := strings.Fields(strings.NewReplacer("{port}", strconv.Itoa(port), "{file}", f).Replace(command))
			if err := s.spawn(u, name, nil, args...); err != nil {
				return err
			}
			if err := s.ready(ctx, portal); err != nil {
				return err
			}
			s.ends = append(s.ends, endpoint{portal, u.iqn(i), 1})
		}
		return nil
	}
}

func startGotgt(b *bench, ctx context.Context, s *server, u *setup) error {
	s.about = "gotgt v0.2.2"
	if !u.defaults {
		s.note = "gotgt takes no settings: its defaults"
	}
	port, portal, err := loopback()
	if err != nil {
		return err
	}
	args := []string{b.gotgt, "--port", strconv.Itoa(port)}
	for i, f := range u.files {
		args = append(args, "--export", u.iqn(i)+"="+f)
		s.ends = append(s.ends, endpoint{portal, u.iqn(i), 0})
	}
	if err := s.spawn(u, gotgt, nil, args...); err != nil {
		return err
	}
	return s.ready(ctx, portal)
}

// common are the values that every server which can be told is told. What came of them is printed with the figures.
var common = []struct{ key, value string }{
	{"InitialR2T", "No"}, {"ImmediateData", "Yes"}, {"FirstBurstLength", "262144"}, {"MaxBurstLength", "1048576"},
	{"MaxRecvDataSegmentLength", "262144"}, {"MaxXmitDataSegmentLength", "262144"},
}

// startTgtd starts tgtd with a management socket of its own and sets it up with tgtadm. It ignores SIGTERM.
func startTgtd(_ *bench, ctx context.Context, s *server, u *setup) error {
	daemon, ok := deps.Lookup("tgtd")
	admin, ok2 := deps.Lookup("tgtadm")
	if !ok || !ok2 {
		return errNotFound
	}
	_, portal, err := loopback()
	if err != nil {
		return err
	}
	env := append(daemon.Env(), "TGT_IPC_SOCKET="+filepath.Join(u.dir, "tgt"))
	version, err := exec.CommandContext(ctx, daemon.Path, "-V").Output()
	if err == nil {
		s.about = "tgtd " + strings.TrimSpace(string(version))
	}
	if err := s.spawn(u, tgtd, env, daemon.Path, "-f", "-C", "0", "--iscsi", "portal="+portal); err != nil {
		return err
	}
	s.procs[0].Stubborn = true
	if err := s.ready(ctx, portal); err != nil {
		return err
	}
	adm := func(args ...string) error {
		c := exec.CommandContext(ctx, admin.Path, append([]string{"-C", "0", "--lld", "iscsi"}, args...)...)
		c.Env = env
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("tgtadm %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	for i, f := range u.files {
		tid := strconv.Itoa(i + 1)
		lu := []string{"--op", "new", "--mode", "logicalunit", "--tid", tid, "--lun", "1", "-b", f}
		if u.direct {
			lu = append(lu, "--bsoflags", "direct")
		}
		calls := [][]string{
			{"--op", "new", "--mode", "target", "--tid", tid, "-T", u.iqn(i)}, lu,
			{"--op", "bind", "--mode", "target", "--tid", tid, "-I", "ALL"},
		}
		set := func(key, value string) {
			calls = append(calls, []string{"--op", "update", "--mode", "target", "--tid", tid, "-n", key, "-v", value})
		}
		if !u.defaults {
			for _, kv := range common {
				set(kv.key, kv.value)
			}
		}
		if u.digests {
			set("HeaderDigest", "CRC32C")
			set("DataDigest", "CRC32C")
		}
		for _, c := range calls {
			if err := adm(c...); err != nil {
				return err
			}
		}
		s.ends = append(s.ends, endpoint{portal, u.iqn(i), 1})
	}
	return nil
}

// startIstgt writes a configuration file for istgt. It refuses InitialR2T=No.
func startIstgt(_ *bench, ctx context.Context, s *server, u *setup) error {
	daemon, ok := deps.Lookup("istgt")
	if !ok {
		return errNotFound
	}
	s.about = "istgt 0.4 (20111008), QueueDepth 64"
	port, portal, err := loopback()
	if err != nil {
		return err
	}
	control, err := gauge.FreePort()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(u.dir, "istgt-")
	if err != nil {
		return err
	}
	auth, conf := filepath.Join(dir, "auth.conf"), filepath.Join(dir, "istgt.conf")
	if err := os.WriteFile(auth, nil, 0o600); err != nil {
		return err
	}
	text := istgtConf(u, dir, port, control)
	if !u.defaults {
		s.note = "istgt refuses InitialR2T=No"
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	for i := range u.files {
		s.ends = append(s.ends, endpoint{portal, u.iqn(i), 0})
	}
	if err := s.spawn(u, istgt, daemon.Env(), daemon.Path, "-D", "-c", conf); err != nil {
		return err
	}
	return s.ready(ctx, portal)
}

func istgtConf(u *setup, dir string, port, control int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[Global]\n NodeBase \"iqn.2026-11.io.lunar\"\n PidFile %s/pid\n AuthFile %s/auth.conf\n MediaDirectory %s\n LogFacility \"local7\"\n"+
		" Timeout 30\n NopInInterval 20\n DiscoveryAuthMethod Auto\n MaxSessions 128\n", dir, dir, dir)
	if !u.defaults {
		for _, kv := range common {
			if kv.key != "InitialR2T" && kv.key != "MaxXmitDataSegmentLength" {
				fmt.Fprintf(&b, " %s %s\n", kv.key, kv.value)
			}
		}
	}
	fmt.Fprintf(&b, "[UnitControl]\n AuthMethod None\n AuthGroup None\n Portal UC1 127.0.0.1:%d\n Netmask 127.0.0.1\n", control)
	fmt.Fprintf(&b, "[PortalGroup1]\n Portal DA1 127.0.0.1:%d\n[InitiatorGroup1]\n InitiatorName \"ALL\"\n Netmask 127.0.0.0/8\n", port)
	digest := "Auto"
	if u.digests {
		digest = "Header Data"
	}
	for i, f := range u.files {
		fmt.Fprintf(&b, "[LogicalUnit%d]\n TargetName %q\n Mapping PortalGroup1 InitiatorGroup1\n AuthMethod None\n UseDigest %s\n UnitType Disk\n QueueDepth 64\n LUN0 Storage %s Auto\n",
			i+1, u.iqn(i), digest, f)
	}
	return b.String()
}
