package tgtipc

import (
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/target"
	"github.com/lunar-iscsi/lunar/test/tgt/sample"
)

func driver(scheme string) admin.DriverInfo { return admin.DriverInfo{Scheme: scheme} }

// elsewise are the commands of 41-server-errors.txt that lunar answers in another way than tgtd, what it says, and why.
var elsewise = []struct{ command, stderr, why string }{
	{"--lun 65536 -b", "invalid request", "no initiator can address it"},
	{"--lun 16384 -b", "invalid request", "no initiator can address it"},
	{"--params disksize=auto", "", "curve-tgt's word: the size of the volume is taken over"},
	{"--tid 2 --lun 4 --params", "can't find the logical unit", "changers are refused, so there is none"},
}

// Every command that tgtd refuses is refused in its words, and the others have their effect.
func TestSampleServerErrors(t *testing.T) {
	r := setup(t)
	r.sessions[1] = []target.SessionInfo{{TSIH: 1, Initiator: "iqn.x"}} // the sample's
	r.drivers = append(r.drivers, driver("rbd"))
	seen := map[string]bool{}
	for _, b := range sample.Blocks(t, "41-server-errors.txt") {
		exit, stderr := b.Exit, b.Stderr
		for _, e := range elsewise {
			if strings.Contains(b.Command, e.command) {
				seen[e.command] = true
				exit, stderr = 0, ""
				if e.stderr != "" {
					exit, stderr = 22, "tgtadm: "+e.stderr+"\n"
				}
			}
		}
		gotOut, gotErr, gotExit := r.run(t, b.Command)
		if gotErr != stderr || gotExit != exit {
			t.Errorf("%s: status %d, %q; want %d, %q", b.Command, gotExit, gotErr, exit, stderr)
		}
		if gotOut != b.Stdout {
			t.Errorf("%s: %s", b.Command, firstDifference(gotOut, b.Stdout))
		}
	}
	if len(seen) != len(elsewise) {
		t.Errorf("of %d differences %d were met: %v", len(elsewise), len(seen), seen)
	}
}

// What ends tgtd is refused.
func TestSampleCrashes(t *testing.T) {
	r := started(t)
	before := r.Document()
	for _, h := range []Header{
		{Mode: ModeTarget, Op: OpNew, TID: 1}, {Mode: ModeTarget, Op: OpUpdate, TID: 1}, {Mode: ModePortal, Op: OpNew}, {Mode: ModePortal, Op: OpDelete},
		{Mode: ModeSystem, Op: OpUpdate}, {Mode: ModeAccount, Op: OpNew}, {Mode: ModeAccount, Op: OpDelete}, {Mode: ModeAccount, Op: OpBind, TID: NoTID},
		{Mode: ModeAccount, Op: OpUnbind, TID: NoTID},
	} {
		if _, err := r.do(h, ""); errnoOf(err) != ErrInvalidRequest {
			t.Errorf("%v %v without a payload: %v", h.Mode, h.Op, err)
		}
	}
	if _, err := r.do(Header{Mode: ModeTarget, Op: OpNew, TID: 1}, "name=iqn.x"); errnoOf(err) != ErrInvalidRequest {
		t.Errorf("a target without a name: %v", err)
	}
	if after := r.Document(); !equal(t, before, after) {
		t.Errorf("something was changed: %+v", after)
	}
	for _, c := range []string{"--mode target --op new --tid 1 -T iqn.x", "--mode account --op new --user a --password p",
		"--mode account --op new --user b --password p", "--mode account --op bind --tid 1 --user a", "--mode account --op bind --tid 1 --user b",
		"--mode account --op unbind --tid 1 --user a"} {
		if _, stderr, exit := r.run(t, "tgtadm "+c); exit != 0 {
			t.Fatalf("%s: %s", c, stderr)
		}
	}
	if out, _, _ := r.run(t, "tgtadm --mode target --op show"); !strings.HasSuffix(out, "    Account information:\n        b\n    ACL information:\n") {
		t.Errorf("after the first of two accounts was unbound:\n%s", out)
	}
}
