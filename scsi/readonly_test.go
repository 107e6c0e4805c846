package scsi

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// restrictedOps are the commands that a nexus which may only read is refused.
var restrictedOps = []string{"WRITE(6)", "WRITE(10)", "WRITE(12)", "WRITE(16)", "WRITE AND VERIFY(10)", "WRITE AND VERIFY(12)", "WRITE AND VERIFY(16)",
	"WRITE SAME(10)", "WRITE SAME(16)", "UNMAP", "ORWRITE(16)", "COMPARE AND WRITE", "MODE SELECT(6)", "MODE SELECT(10)", "RESERVE(6)", "RESERVE(10)",
	"REGISTER", "RESERVE", "RELEASE", "CLEAR", "PREEMPT", "PREEMPT AND ABORT", "REGISTER AND IGNORE EXISTING KEY", "REGISTER AND MOVE"}

// TestReadOnlyNexus: every command, from a nexus that may only read: what changes something ends WRITE PROTECTED and leaves the medium as it was,
// all else ends as it does for another.
func TestReadOnlyNexus(t *testing.T) {
	seen := 0
	rowsOf(newRig(t, thinStore(t, 1<<20), DiskConfig{}).lu.ops, func(row *op, b []byte) {
		if len(b) >= 10 && row.resv != resvPersist {
			// One block from 0, wherever the count stands.
			copy(b, transfer(b[0], 0, 1, b[1])[:len(b)])
		}
		data := bytes.Repeat([]byte{7}, 4096)
		run := func(restricted bool) (*rig, string) {
			r := newRig(t, thinStore(t, 1<<20), DiskConfig{})
			r.nx.ReadOnly = restricted
			c := &Command{Nexus: r.nx, CDB: slices.Clone(b), OutLen: 4096, Owner: data, Inventory: luns{0}}
			r.start(c)
			return r, result(c)
		}
		r, got := run(true)
		if slices.Contains(restrictedOps, row.name) {
			seen++
			if got != "07/27/00" {
				t.Errorf("%s: %s", row.name, got)
			}
			if read := r.do(transfer(cdb.Read16, 0, 8, 0), nil); slices.ContainsFunc(read.Data, func(b byte) bool { return b != 0 }) {
				t.Errorf("%s has changed the medium", row.name)
			}
		} else if _, want := run(false); got != want {
			t.Errorf("%s: %s, %s for one that may write", row.name, got, want)
		}
	})
	if seen != len(restrictedOps) {
		t.Errorf("%d commands, want %d", seen, len(restrictedOps))
	}
}

// A write that waits when its nexus loses the right to write does not reach the medium.
func TestReadOnlyNexusWhileWaiting(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	first := r.write(r.nx, 0, 8, '1')
	if !r.lu.Prepare(first) {
		t.Fatal(result(first))
	}
	r.lu.Await(first)
	second := r.started(r.write(r.nx, 0, 1, '2'), held)
	r.nx.ReadOnly = true
	first.Buf = first.Owner.([]byte)
	if r.lu.Execute(first) != Done {
		t.Fatal("the first does not end")
	}
	r.want(first, "07/27/00")
	if got := r.host.turn(); !slices.Equal(got, []*Command{second}) {
		t.Fatalf("%d ended", len(got))
	}
	r.want(second, "07/27/00")
	if c := r.read(r.nx, 0, 1); r.start(c) != Done || c.Data[0] != 0 {
		t.Fatal("it was written")
	}
}

// TestPorts: ports come and go; one that is used stays until its last nexus is gone, and what was registered through it stays for ever.
func TestPorts(t *testing.T) {
	r := newPRRig(t, DiskConfig{})
	ports := func() string {
		var list []string
		for _, p := range r.lu.ports {
			list = append(list, fmt.Sprintf("%s,%d", strings.TrimPrefix(p.target, "iqn.2024-01.example:"), p.group))
		}
		slices.Sort(list)
		return strings.Join(list, " ")
	}
	want := func(when, want string) {
		t.Helper()
		if got := ports(); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	const other = "iqn.2024-01.example:other"
	r.lu.SetPorts(prTarget, []uint16{1, 2, 3})
	r.lu.SetPorts(other, []uint16{2})
	want("set", "other,2 t,1 t,2 t,3")
	r.lu.SetPorts(prTarget, []uint16{3, 4})
	want("two went, one of them in use", "other,2 t,1 t,3 t,4")
	r.ok('a', out{action: prRegister, newKey: 5, flags: proutAllPorts})
	r.wantStatus("a=5 a/3=5 a/2=5 a/4=5")
	for _, who := range []byte("abc") {
		r.lu.Detach(r.nx[who])
	}
	want("still in use", "other,2 t,1 t,3 t,4")
	r.lu.Detach(r.nx['d'])
	want("no more", "other,2 t,3 t,4")
	r.lu.SetPorts(other, nil)
	want("another target's", "t,3 t,4")
	n := sam.Nexus{Initiator: "iqn.2024-01.example:late", Target: prTarget, PortGroup: 1}
	late := r.lu.Attach(n)
	want("used all the same", "t,1 t,3 t,4")
	r.lu.SetPorts(prTarget, []uint16{1})
	r.lu.Detach(late)
	want("and back again", "t,1")
	if n := len(r.lu.pr.regs); n != 4 {
		t.Errorf("%d registrations, want 4", n)
	}
}
