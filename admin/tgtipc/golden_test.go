package tgtipc

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
	"github.com/lunar-iscsi/lunar/test/tgt/sample"
)

// request is what tgtadm makes of a command line that it accepts.
func request(t testing.TB, words []string) (Header, string) {
	t.Helper()
	h := Header{TID: NoTID, LUN: NoLUN}
	modes := []string{"system", "target", "logicalunit", "portal", "lld", "session", "connection", "account"}
	short := map[string]string{"sys": "system", "tgt": "target", "lu": "logicalunit", "pt": "portal", "sess": "session", "conn": "connection"}
	ops := []string{"new", "delete", "show", "bind", "unbind", "update", "stat", "start", "stop"}
	parts := map[string]string{}
	index := func(list []string, s string) int {
		for i, v := range list {
			if v == s {
				return i
			}
		}
		t.Fatalf("%q is none of %v", s, list)
		return 0
	}
	num := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var name string
	for words = words[1:]; len(words) > 0; {
		opt := words[0]
		switch opt {
		case "--force":
			h.Force = 1
			words = words[1:]
			continue
		case "--outgoing":
			h.Direction = Outgoing
			words = words[1:]
			continue
		}
		if len(words) < 2 {
			t.Fatalf("%s without a value", opt)
		}
		v := words[1]
		words = words[2:]
		switch opt {
		case "-C":
		case "--lld":
			h.LLD = v
		case "--mode":
			if s, ok := short[v]; ok {
				v = s
			}
			h.Mode = Mode(index(modes, v))
		case "--op":
			h.Op = Op(index(ops, v))
		case "--tid":
			h.TID = int32(num(v))
		case "--sid":
			h.SID = num(v)
		case "--cid":
			h.CID = uint32(num(v))
		case "--lun":
			h.LUN = num(v)
		case "-H":
			h.Host = uint32(num(v))
		case "-n", "--name":
			name = v
		case "-v", "--value":
			parts["value"] = name + "=" + v
		case "-b", "--backing-store":
			parts["path"] = "path=" + v
		case "--bstype", "--bsopts", "--bsoflags", "--blocksize", "--user", "--password":
			parts[opt[2:]] = opt[2:] + "=" + v
		case "-T", "--targetname":
			parts["targetname"] = "targetname=" + v
		case "-I", "--initiator-address":
			parts["address"] = "initiator-address=" + v
		case "-Q", "--initiator-name":
			parts["initiator"] = "initiator-name=" + v
		case "--device-type":
			h.DeviceType = map[string]uint32{"disk": 0, "tape": 1, "ssc": 1, "cd": 5, "changer": 8, "osd": 0x11, "pt": 0xff}[v]
		case "--params", "--param":
			parts["params"] = pick(h.Mode == ModePortal, "portalOps ", "targetOps ") + v + ","
		default:
			t.Fatalf("option %s", opt)
		}
	}
	if h.DeviceType == DeviceTape {
		parts["bstype"] = "bstype=ssc"
	}
	var list []string
	for _, k := range []string{"value", "path", "bstype", "bsopts", "bsoflags", "blocksize", "targetname", "address", "initiator", "user", "password", "params"} {
		if p, ok := parts[k]; ok {
			list = append(list, p)
		}
	}
	return h, strings.Join(list, ",")
}

// The bytes of tgtadm's requests are read, and written, field by field.
func TestWireRequests(t *testing.T) {
	wires := sample.Wires(t)
	if len(wires) < 40 {
		t.Fatalf("%d requests", len(wires))
	}
	for _, w := range wires {
		raw, err := hex.DecodeString(w.Header)
		if err != nil || len(raw) != HeaderSize {
			t.Fatalf("%s: %d bytes, %v", w.Command, len(raw), err)
		}
		h := parseHeader((*[HeaderSize]byte)(raw))
		payload := unquote(t, w.Payload)
		got := fmt.Sprintf("mode=%d op=%d lld='%s' len=%d tid=%d sid=%d lun=%#x cid=%d host_no=%d device_type=%d ac_dir=%d pack=%d force=%d",
			h.Mode, h.Op, h.LLD, h.Len, h.TID, h.SID, h.LUN, h.CID, h.Host, h.DeviceType, h.Direction, h.Pack, h.Force)
		for k, v := range w.Fields {
			if want := k + "=" + v; !strings.Contains(strings.ReplaceAll(got, "'", "")+" ", want+" ") {
				t.Errorf("%s: %s, want %s", w.Command, got, want)
			}
		}
		if int(h.Len) != HeaderSize+len(payload) {
			t.Errorf("%s: length %d with %d bytes of payload", w.Command, h.Len, len(payload))
		}
		if back := h.Append(nil, cString([]byte(payload))); string(back) != string(raw)+payload {
			t.Errorf("%s: written back\n%x, want\n%x%x", w.Command, back, raw, payload)
		}
		mine, text := request(t, sample.Words(w.Command))
		if string(mine.Append(nil, text)) != string(raw)+payload {
			t.Errorf("%s: made from the command line\n%+v %q, want\n%+v %q", w.Command, mine, text, h, payload)
		}
	}
}

// unquote reads Python's notation for bytes.
func unquote(t *testing.T, s string) string {
	t.Helper()
	if s, ok := strings.CutPrefix(s, "b'"); ok {
		if s, ok = strings.CutSuffix(s, "'"); ok {
			s, err := strconv.Unquote(`"` + strings.ReplaceAll(s, `"`, `\"`) + `"`)
			if err == nil {
				return s
			}
		}
	}
	t.Fatalf("%s is no payload", s)
	return ""
}

// discard is a Logger.
type discard struct{}

func (discard) Debug(string, ...any) {}
func (discard) Info(string, ...any)  {}
func (discard) Warn(string, ...any)  {}

// A rig is a face on a fake.
type rig struct {
	*fake
	face face
	dir  string // stands for sample.Demo
}

// do carries a request out.
func (r *rig) do(h Header, payload string) (string, error) {
	names := func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != "localhost" {
			return nil, errors.New("no such host")
		}
		return []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("127.0.0.1")}, nil
	}
	c := call{Header: &h, payload: payload, svc: r.fake, face: &r.face, log: discard{}, lookup: names}
	return c.do(context.Background())
}

// run carries a command line out and returns what tgtadm would print and its status.
func (r *rig) run(t testing.TB, command string) (stdout, stderr string, exit int) {
	t.Helper()
	h, payload := request(t, sample.Words(strings.ReplaceAll(command, sample.Demo, r.dir)))
	text, err := r.do(h, payload)
	if err != nil {
		return "", "tgtadm: " + errnoOf(err).String() + "\n", 22
	}
	return strings.ReplaceAll(text, r.dir, sample.Demo), "", 0
}

// started is a rig like tgtd when it has been started for the samples.
func started(t testing.TB) *rig {
	r := &rig{fake: newFake(), dir: sample.Files(t)}
	if _, err := r.AddPortal(t.Context(), spec.Portal{Address: "127.0.0.1:13260"}); err != nil {
		t.Fatal(err)
	}
	return r
}

// refused are the commands of the setup that make what lunar does not serve.
var refused = []string{"--device-type cd", "--device-type tape", "--device-type changer"}

// setup is started after the commands of the setup.
func setup(t testing.TB) *rig {
	t.Helper()
	r := started(t)
	n := 0
	for _, c := range sample.Setup(t) {
		want := 0
		for _, kind := range refused {
			if strings.Contains(c, kind) {
				want = 22
				n++
			}
		}
		if _, stderr, exit := r.run(t, c); exit != want {
			t.Fatalf("%s: %s", c, stderr)
		}
	}
	if n != 4 {
		t.Fatalf("%d commands were refused for their kind of device", n)
	}
	return r
}

// same compares a command with its sample.
func (r *rig) same(t *testing.T, name string) {
	t.Helper()
	s := sample.Read(t, name)
	want := sample.Served(s.Stdout)
	stdout, stderr, exit := r.run(t, s.Command)
	if stdout != want || exit != s.Exit || stderr != s.Stderr {
		t.Errorf("%s: %s: status %d, %q; %s", name, s.Command, exit, stderr, firstDifference(stdout, want))
	}
}

// firstDifference tells where two texts part.
func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		a, b := "(end)", "(end)"
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			return fmt.Sprintf("line %d is %q, want %q", i+1, a, b)
		}
	}
	return "no difference"
}

func TestSamplesFresh(t *testing.T) {
	r := started(t)
	for _, name := range []string{"01-system-show-fresh.txt", "02-target-show-empty.txt", "03-lld-show-fresh.txt", "04-portal-show.txt",
		"05-account-show-empty.txt", "06-system-stat-empty.txt"} {
		r.same(t, name)
	}
	r.same(t, "04-lld-stop.txt")
	r.same(t, "04-lld-show-stopped.txt")
	r.same(t, "59-system-delete.txt")
	if !r.down {
		t.Error("the daemon was not asked to end")
	}
}

func TestSamplesOfPortals(t *testing.T) {
	for name, portals := range map[string][]string{
		"04-portal-show-several.txt":          {"127.0.0.1:13276", "[::1]:13277", "0.0.0.0:13278"},
		"04-portal-show-default-wildcard.txt": {"0.0.0.0:3260", "[::]:3260"},
	} {
		r := &rig{fake: newFake(), dir: "/nowhere"}
		for _, p := range portals {
			if _, err := r.AddPortal(t.Context(), spec.Portal{Address: p}); err != nil {
				t.Fatal(err)
			}
		}
		r.same(t, name)
	}
}

func TestSamplesConfigured(t *testing.T) {
	r := setup(t)
	for _, name := range []string{"20-target-show-all-nosession.txt", "21-target-show-tid1.txt", "21-target-show-tid3.txt", "21-target-show-tid5.txt",
		"22-system-show-configured.txt", "23-lld-show-configured.txt", "24-account-show.txt", "25-conn-show-nosession.txt", "26-target-stat-nosession.txt"} {
		r.same(t, name)
	}
}

func TestSampleOfDiscoveryAccounts(t *testing.T) {
	r := started(t)
	for _, c := range []string{"--op new --user u1 --password p1", "--op new --user u2 --password p2", "--op bind --user u2 --outgoing"} {
		if _, stderr, exit := r.run(t, "tgtadm --mode account "+c); exit != 0 {
			t.Fatalf("%s: %s", c, stderr)
		}
	}
	r.same(t, "22-system-show-configured.txt") // an outgoing account alone is not shown
	if _, stderr, exit := r.run(t, "tgtadm --mode account --op bind --user u1"); exit != 0 {
		t.Fatal(stderr)
	}
	// The sample is of a tgtd with its module for Ceph.
	r.drivers = append(r.drivers, driver("rbd"))
	r.same(t, "27-system-show-discovery-accounts.txt")
}

// live puts the sessions of the samples there.
func (r *rig) live() {
	from := netip.MustParseAddrPort("127.0.0.1:40000")
	session := func(tsih uint16, name, alias string, conn target.ConnCounters, luns ...target.LUNStats) target.SessionInfo {
		return target.SessionInfo{TSIH: tsih, Initiator: "iqn.1993-08.org.debian:01:initiator-" + name, Alias: alias,
			Conns: []target.ConnInfo{{Remote: from, Counters: conn}}, LUNs: luns}
	}
	done := func(lun uint16, rb, r, wb, w, errs uint64) target.LUNStats {
		return target.LUNStats{LUN: lun, ReadsBegun: r, ReadBytesBegun: rb, Reads: r, ReadBytes: rb, WritesBegun: w, WriteBytesBegun: wb, Writes: w,
			WriteBytes: wb, Errors: errs}
	}
	r.sessions[1] = []target.SessionInfo{
		session(2, "a", "host-a", target.ConnCounters{RxBytes: 21796, TxBytes: 42144, Commands: 17}, done(1, 40960, 10, 20480, 5, 1)),
		session(3, "b", "", target.ConnCounters{}, done(5, 12288, 3, 0, 0, 1)),
	}
	r.sessions[2] = []target.SessionInfo{session(4, "a", "host-a", target.ConnCounters{}, target.LUNStats{LUN: 1, Errors: 1})}
	r.sessions[3] = []target.SessionInfo{session(5, "c", "host-c", target.ConnCounters{}, done(1, 8192, 2, 8192, 2, 1))}
}

func TestSamplesWithSessions(t *testing.T) {
	r := setup(t)
	r.live()
	for _, name := range []string{"30-target-show-all-sessions.txt", "31-conn-show-tid1.txt", "32-conn-show-tid2.txt", "33-session-show-tid1.txt",
		"34-target-stat-tid1.txt", "36-lun-stat.txt", "37-session-stat-sid2.txt", "38-conn-stat.txt", "39-target-show-tid1-live.txt"} {
		r.same(t, name)
	}
	// Rows of LUNs that are not served are missing.
	s := sample.Read(t, "35-system-stat.txt")
	var want strings.Builder
	for line := range strings.Lines(s.Stdout) {
		if f := strings.Fields(line); f[0] == "2" && f[1] != "0" {
			continue
		}
		want.WriteString(line)
	}
	if got, _, _ := r.run(t, s.Command); got != want.String() {
		t.Errorf("%s: %s", s.Command, firstDifference(got, want.String()))
	}
	// LUN 2/1 is a CD in the samples, whose removal an initiator prevents: the same of a disk.
	r.prevent["1/1"] = true
	if got, _, _ := r.run(t, "tgtadm --mode target --op show"); !strings.Contains(got, "LUN: 1\n            Type: disk\n            SCSI ID: IET     00010001\n            SCSI SN: beaf11\n            Size: 67 MB, Block size: 512\n            Online: Yes\n            Removable media: No\n            Prevent removal: Yes\n") {
		t.Errorf("prevention of removal is not shown:\n%s", got)
	}
	if _, stderr, _ := r.run(t, "tgtadm --mode logicalunit --op update --tid 1 --lun 1 --params online=0"); stderr != "tgtadm: this device has Prevent Removal set\n" {
		t.Errorf("taken offline: %q", stderr)
	}
}
