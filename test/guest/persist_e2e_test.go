//go:build e2e

package guest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The two initiators of these tests and their reservation keys.
const (
	holder, other       = "iqn.2026-11.io.lunar.guest:holder", "iqn.2026-11.io.lunar.guest:other"
	holderKey, otherKey = "0xa1", "0xb2"
)

// A pair of initiators in one guest, each with a session and a disk of its own for the same LUN.
type nexuses struct {
	s    *server
	g    *Guest
	vars string // shell: $holder and $other are their disks
}

func twoNexuses(t *testing.T, o Options) *nexuses {
	t.Helper()
	n := &nexuses{s: serve(t, "64M", "--state-dir="+t.TempDir())}
	n.g = BootWith(t, o)
	for i, name := range []string{holder, other} {
		variable := []string{"holder", "other"}[i]
		disk := strings.TrimSpace(n.g.Run(t, fmt.Sprintf("as %s %s %s %s", variable, iqn, n.s.Addr, name)))
		n.vars += variable + "=" + disk + "\n"
	}
	n.vars += "out() { sg_persist --no-inquiry --out \"$@\" 2>&1 || { s=$?; echo \"sg_persist $*: status $s\"; return $s; }; }\n" +
		"keys() { sg_persist --no-inquiry --in --read-keys $1 | awk '/^ +0x/ { print $1; n++ } END { if (!n) print \"none\" }' | sort | paste -sd ' '; }\n" +
		"reservation() { sg_persist --no-inquiry --in --read-reservation $1; }\n"
	return n
}

// run runs a script that knows $holder, $other, out, keys and reservation, and returns its lines.
func (n *nexuses) run(t *testing.T, script string) []string {
	t.Helper()
	return strings.Split(strings.TrimSpace(n.g.Run(t, n.vars+"set -e\n"+script)), "\n")
}

// expect fails the test unless the script says just these lines.
func (n *nexuses) expect(t *testing.T, script string, want ...string) {
	t.Helper()
	if got := n.run(t, script); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("of\n%s\ncame\n%s\nwant\n%s", script, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// restart has lunard killed and started again, and both initiators take note of it: sg_persist, unlike the kernel, fails on
// a unit attention.
func (n *nexuses) restart(t *testing.T) {
	t.Helper()
	n.s.restart(t)
	n.run(t, "for d in $holder $other; do sg_turs --number=4 $d >/dev/null 2>&1 || true; done")
}

func (n *nexuses) end(t *testing.T) {
	t.Helper()
	n.g.Run(t, "logout "+iqn)
	n.g.Shutdown(t)
	n.s.Stop(t)
}

const (
	all      = "read ok, write ok"
	readOnly = "read ok, write conflict"
	nothing  = "read conflict, write conflict"
)

// Each type of reservation, and what it leaves to whom (SPC-4 table 65).
func reservations(t *testing.T, o Options) {
	t.Helper()
	n := twoNexuses(t, o)
	for _, c := range []struct {
		kind                     int
		name                     string
		unregistered, registered string // what the other initiator may do
	}{
		{1, "Write Exclusive", readOnly, readOnly},
		{3, "Exclusive Access", nothing, nothing},
		{5, "Write Exclusive, registrants only", readOnly, all},
		{6, "Exclusive Access, registrants only", nothing, all},
		{7, "Write Exclusive, all registrants", readOnly, all},
		{8, "Exclusive Access, all registrants", nothing, all},
	} {
		n.expect(t, fmt.Sprintf(`
			out --register --param-sark=%[1]s $holder
			out --reserve --param-rk=%[1]s --prout-type=%[3]d $holder
			reservation $other | sed -n 's/.*type: //p'
			access $holder
			access $other
			out --register --param-sark=%[2]s $other
			keys $other
			access $other
			access $holder
			out --release --param-rk=%[1]s --prout-type=%[3]d $holder
			access $other
			out --register --param-rk=%[2]s $other
			out --register --param-rk=%[1]s $holder
			keys $holder`, holderKey, otherKey, c.kind),
			c.name, all, c.unregistered, holderKey+" "+otherKey, c.registered, all, all, "none")
	}
	n.end(t)
}

func TestReservations(t *testing.T) {
	t.Parallel()
	reservations(t, Options{})
}

// A reservation that is taken away: by preempting, by preempting with abort under load, and by clearing.
func TestPreempt(t *testing.T) {
	t.Parallel()
	n := twoNexuses(t, Options{})
	register := fmt.Sprintf(`
		out --register --param-sark=%[1]s $holder
		out --reserve --param-rk=%[1]s --prout-type=3 $holder
		out --register --param-sark=%[2]s $other
		`, holderKey, otherKey)
	// With a wrong key nothing happens; with the right one the reservation and the type are the other's.
	n.expect(t, register+fmt.Sprintf(`
		! out --preempt --param-rk=0xdead --param-sark=%[1]s --prout-type=1 $other >/dev/null
		access $holder
		out --preempt --param-rk=%[2]s --param-sark=%[1]s --prout-type=1 $other
		keys $other
		reservation $other | sed -n 's/.*type: //p'
		access $other
		access $holder
		! out --release --param-rk=%[1]s --prout-type=3 $holder >/dev/null
		out --clear --param-rk=%[2]s $other
		keys $other
		access $holder`, holderKey, otherKey),
		all, otherKey, "Write Exclusive", all, readOnly, "none", all)

	// The holder's load ends in a conflict, and nothing of it is written after the answer to PREEMPT AND ABORT.
	n.run(t, register)
	busy := n.g.Start(t, n.vars+`
		i=0
		while [ "$(outcome dd if=/dev/urandom of=$holder bs=256k count=16 oflag=direct conv=notrunc status=none)" = ok ]; do
			i=$((i + 1))
			echo "round $i"
		done
		outcome dd if=/dev/zero of=$holder bs=4k count=1 oflag=direct conv=notrunc status=none`)
	busy.Until(t, time.Minute, "round 2")
	out := n.run(t, fmt.Sprintf(`
		out --preempt-abort --param-rk=%[2]s --param-sark=%[1]s --prout-type=3 $other
		for i in 1 2; do
			dd if=$other bs=256k count=16 iflag=direct status=none | md5sum
			sleep 1
		done
		keys $other`, holderKey, otherKey))
	if len(out) != 3 || out[0] != out[1] || out[2] != otherKey {
		t.Errorf("what the disk holds, a second later, and who is registered:\n%s", strings.Join(out, "\n"))
	}
	if said := strings.TrimSpace(busy.Wait(t, time.Minute)); !strings.HasSuffix(said, "\nconflict") {
		t.Errorf("the load that was aborted ended with\n%s", said)
	}

	n.expect(t, fmt.Sprintf(`
		access $holder
		out --clear --param-rk=%s $other
		keys $other
		access $holder`, otherKey), nothing, "none", all)
	n.end(t)
}

// What was registered with APTPL is there after lunard was killed, and holds at once; what was not is gone.
func TestReservationsSurviveAKill(t *testing.T) {
	t.Parallel()
	n := twoNexuses(t, Options{})
	for _, kind := range []int{1, 6} {
		left := []string{1: readOnly, 6: nothing}[kind] // to the other
		n.run(t, fmt.Sprintf(`
			out --register --param-sark=%[1]s --param-aptpl $holder
			out --reserve --param-rk=%[1]s --prout-type=%[2]d $holder`, holderKey, kind))
		n.restart(t)
		n.expect(t, "keys $other\naccess $other\naccess $holder", holderKey, left, all)
		n.expect(t, fmt.Sprintf(`
			out --release --param-rk=%[1]s --prout-type=%[2]d $holder
			out --register-ignore --param-sark=0 --param-aptpl $holder
			access $other
			keys $holder`, holderKey, kind), all, "none")
	}
	n.run(t, fmt.Sprintf(`
		out --register --param-sark=%[1]s $holder
		out --reserve --param-rk=%[1]s --prout-type=3 $holder`, holderKey))
	n.restart(t)
	n.expect(t, "keys $other\naccess $other", "none", all)
	n.end(t)
}
