package scsi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// tid is the TransportID of one of the test's nexuses.
func tid(who byte) []byte { return appendTransportID(nil, prNexus(who)) }

// nameTID is the TransportID of an initiator's name alone.
func nameTID(name string) []byte {
	b := append([]byte{transportISCSI, 0, 0, 0}, name...)
	for b = append(b, 0); len(b)%4 != 0 || len(b) < 24; {
		b = append(b, 0)
	}
	b[3] = byte(len(b) - 4)
	return b
}

// spec is the additional parameter data of SPEC_I_PT.
func spec(ids ...[]byte) []byte {
	all := bytes.Join(ids, nil)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(all))), all...)
}

// TestSpecifiedPorts: REGISTER with SPEC_I_PT: all that it names or nobody.
func TestSpecifiedPorts(t *testing.T) {
	long := spec(tid('b'))
	for _, k := range []struct {
		name   string
		extra  []byte
		want   string
		status string
	}{
		{"nobody", spec(), "good", "d=4 a=5"},
		{"two", spec(tid('b'), tid('c')), "good", "d=4 a=5 b=5 c=5"},
		{"not logged in", spec(tid('e')), "good", "d=4 a=5 e=5"},
		{"registered already", spec(tid('d'), tid('c')), "good", "d=4 a=5 c=5"},
		{"itself", spec(tid('a')), "good", "d=4 a=5"},
		{"twice", spec(tid('b'), tid('b')), "good", "d=4 a=5 b=5"},
		{"a name", spec(nameTID("IQN.2024-01.example:a")), "good", "d=4 a=5 b=5"},
		{"an unknown name", spec(tid('b'), nameTID("iqn.2024-01.example:nobody")), "05/26/00", "d=4"},
		{"no length", nil, "05/1A/00", "d=4"},
		{"a length too long", slices.Concat([]byte{0, 0, 0, byte(len(long))}, long[4:]), "05/26/00", "d=4"},
		{"cut", slices.Concat([]byte{0, 0, 0, 40}, tid('b')[:40]), "05/26/00", "d=4"},
		{"another protocol", spec([]byte{0x46, 0, 0, 20, 23: 0}), "05/26/00", "d=4"},
		{"no ISID", spec(slices.Concat([]byte{0x45, 0, 0, 20}, []byte("iqn.x"), make([]byte, 15))), "05/26/00", "d=4"},
	} {
		t.Run(k.name, func(t *testing.T) {
			r := newPRRig(t, DiskConfig{})
			r.register('d', 4)
			if got := r.out('a', out{prRegister, 0, 0, 5, proutSpecPorts, k.extra}); got != k.want {
				t.Errorf("%s, want %s", got, k.want)
			}
			r.wantStatus(k.status)
		})
	}
}

// TestTransportID: what is made is read back; what is odd is refused.
//
// MUST 7143 §4.4.2: in SCSI data the name of a target port is the iSCSI name, ",t," and the portal group tag in hexadecimal; that of
// an initiator port has ",i," and the ISID
func TestTransportID(t *testing.T) {
	for _, who := range []byte("abcde") {
		n := prNexus(who)
		b := append(tid(who), 1, 2, 3)
		id, rest, ok := parseTransportID(b)
		if !ok || id.initiator != n.Initiator || id.isid != n.ISID || !id.port || !bytes.Equal(rest, []byte{1, 2, 3}) {
			t.Errorf("%c: %+v %v % x", who, id, ok, rest)
		}
	}
	want := "E\x00\x00\x28iqn.2024-01.example:a,i,0x800102030405\x00\x00"
	if got := string(tid('b')); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for name, b := range map[string][]byte{
		"empty": {}, "short": {0x45, 0, 0, 20}, "no multiple of four": {0x45, 0, 0, 21, 24: 0}, "too short": {0x45, 0, 0, 16, 19: 0},
		"no end": []byte("E\x00\x00\x14iqn.2024-01.example:"), "format": {0x85, 0, 0, 20, 'a', 23: 0}, "no name": {0x05, 0, 0, 20, 23: 0},
		"ISID of letters": []byte("E\x00\x00\x14iqn.x,i,0xzz\x00\x00\x00\x00\x00\x00\x00\x00"),
		"empty ISID":      []byte("E\x00\x00\x14iqn.x,i,0x\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
		"long ISID":       []byte("E\x00\x00\x18iqn.x,i,0x1234567890123\x00"),
		"comma":           []byte("\x05\x00\x00\x14iqn.x,i,0x1\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
	} {
		if id, _, ok := parseTransportID(b); ok {
			t.Errorf("%s: taken as %+v", name, id)
		}
	}
}

// TestAllTargetPorts: with ALL_TG_PT a registration is made, changed and removed at every target port.
func TestAllTargetPorts(t *testing.T) {
	r := newPRRig(t, DiskConfig{})
	r.lu.SetPorts(prTarget, []uint16{1})
	r.lu.SetPorts("iqn.2024-01.example:other", []uint16{1})
	n := prNexus('a')
	n.Target = "iqn.2024-01.example:other"
	other := r.lu.Attach(n)
	other.attentions = 0
	r.nx['o'] = other
	write := transfer(cdb.Write10, 0, 1, 0)
	r.ok('d', out{action: prRegister, newKey: 9})
	r.ok('d', out{action: prReserve, kind: eaRO, key: 9})
	r.want(r.send('o', write, make([]byte, 512)), conflicts)
	r.ok('a', out{action: prRegister, newKey: 5, flags: proutAllPorts})
	r.want(r.send('o', write, make([]byte, 512)), "good")
	r.wantStatus("d=9* a=5 a=5 type 6")
	if got := r.out('o', out{action: prRegister, key: 5, newKey: 6}); got != "good" {
		t.Fatal(got)
	}
	if got := r.out('a', out{action: prRegister, key: 5, newKey: 7, flags: proutAllPorts}); got != conflicts {
		t.Fatalf("with another key at the other port: %s", got)
	}
	r.wantStatus("d=9* a=5 a=6 type 6")
	r.ok('a', out{action: prRegisterAndIgnore, newKey: 0, flags: proutAllPorts})
	r.wantStatus("d=9* type 6")
}

// move is a REGISTER AND MOVE.
func (r *prRig) move(who byte, key, newKey uint64, flags byte, port uint16, id []byte) string {
	r.Helper()
	o := out{action: prRegisterAndMove, key: key, newKey: newKey, extra: id}
	list := o.list()
	list[17] = flags
	binary.BigEndian.PutUint16(list[18:], port)
	binary.BigEndian.PutUint32(list[20:], uint32(len(id)))
	return result(r.send(who, o.cdb(len(list)), list))
}

func TestRegisterAndMove(t *testing.T) {
	const held = "a=aaaa* b=bbbb type 5"
	for _, k := range []struct {
		name   string
		kind   prType
		by     byte
		key    uint64
		newKey uint64
		flags  byte
		port   uint16
		id     []byte
		want   string
		status string
	}{
		{"to nobody yet", weRO, 'a', keyA, 7, 0, 1, tid('e'), "good", "a=aaaa b=bbbb e=7* type 5"},
		{"to one registered", weRO, 'a', keyA, 7, 0, 1, tid('b'), "good", "a=aaaa b=7* type 5"},
		{"and unregister", weRO, 'a', keyA, 7, moveUnreg, 1, tid('c'), "good", "b=bbbb c=7* type 5"},
		{"wrong key", weRO, 'a', keyB, 7, 0, 1, tid('c'), conflicts, held},
		{"not the holder", weRO, 'b', keyB, 7, 0, 1, tid('c'), conflicts, held},
		{"not registered", weRO, 'd', 0, 7, 0, 1, tid('c'), conflicts, held},
		{"no reservation", 0, 'a', keyA, 7, 0, 1, tid('c'), "05/24/00", "a=aaaa b=bbbb"},
		{"all registrants", weAR, 'a', keyA, 7, 0, 1, tid('c'), conflicts, "a=aaaa* b=bbbb* type 7"},
		{"no key", weRO, 'a', keyA, 0, 0, 1, tid('c'), "05/26/00", held},
		{"to itself", weRO, 'a', keyA, 7, 0, 1, tid('a'), "05/26/00", held},
		{"to no port", weRO, 'a', keyA, 7, 0, 2, tid('c'), "05/26/00", held},
		{"a name", weRO, 'a', keyA, 7, 0, 1, nameTID("iqn.2024-01.example:c"), "05/26/00", held},
		{"two", weRO, 'a', keyA, 7, 0, 1, slices.Concat(tid('c'), tid('d')), "05/26/00", held},
		{"none", weRO, 'a', keyA, 7, 0, 1, nil, "05/26/00", held},
		{"APTPL where nothing is kept", weRO, 'a', keyA, 7, moveAPTPL, 1, tid('c'), "05/26/00", held},
	} {
		t.Run(k.name, func(t *testing.T) {
			r := newPRRig(t, DiskConfig{})
			r.register('a', keyA)
			r.register('b', keyB)
			if k.kind != 0 {
				r.ok('a', out{action: prReserve, kind: k.kind, key: keyA})
			}
			before := r.generation()
			if got := r.move(k.by, k.key, k.newKey, k.flags, k.port, k.id); got != k.want {
				t.Errorf("%s, want %s", got, k.want)
			}
			r.wantStatus(k.status)
			if grew := r.generation() != before; grew != (k.want == "good") {
				t.Errorf("PRGENERATION grew: %v", grew)
			}
			if got := r.attentionsOf(); got != "" {
				t.Error("unit attentions", got)
			}
		})
	}
	r := newPRRig(t, DiskConfig{})
	o := out{action: prRegisterAndMove, key: keyA, newKey: 7, extra: tid('c')}
	r.register('a', keyA)
	r.ok('a', out{action: prReserve, kind: we, key: keyA})
	list := o.list() // TRANSPORTID PARAMETER DATA LENGTH 0
	if got := result(r.send('a', o.cdb(len(list)), list)); got != "05/1A/00" {
		t.Error("a TransportID beyond its length:", got)
	}
}

// TestReservationsIn: the bytes of PERSISTENT RESERVE IN, whole and cut.
func TestReservationsIn(t *testing.T) {
	r := newPRRig(t, DiskConfig{Persistence: &prSaver{}})
	want := func(action byte, words ...uint64) {
		t.Helper()
		var b []byte
		for _, w := range words {
			b = binary.BigEndian.AppendUint64(b, w)
		}
		for _, n := range []int{0, 3, 8, 11, len(b), len(b) + 100} {
			if got := r.send('d', prin(action, uint16(n)), nil).Data; !bytes.Equal(got, b[:min(n, len(b))]) {
				t.Errorf("action %d, allocation length %d: % x, want % x", action, n, got, b[:min(n, len(b))])
			}
		}
	}
	want(prReadKeys, 0)
	want(prReadReservation, 0)
	want(prReadFullStatus, 0)
	want(prCapabilities, 0x00080d80_ea010000)
	r.register('a', keyA)
	r.register('b', keyB)
	want(prReadKeys, 0x2_00000010, keyA, keyB)
	want(prReadReservation, 0x2_00000000)
	r.ok('b', out{action: prReserve, kind: ea, key: keyB})
	want(prReadReservation, 0x2_00000010, keyB, 0x00000000_00030000)
	r.ok('b', out{action: prRelease, kind: ea, key: keyB})
	r.ok('b', out{action: prReserve, kind: eaAR, key: keyB})
	want(prReadReservation, 0x2_00000010, 0, 0x00000000_00080000)
	for action := byte(4); action < 32; action++ {
		r.want(r.send('a', prin(action, 255), nil), "05/24/00")
	}
	r.lu.SetOffline("test")
	r.want(r.send('a', prin(prReadKeys, 8), nil), "02/04/03")
	if got := r.out('a', out{action: prClear, key: keyA}); got != "02/04/03" {
		t.Error("CLEAR offline:", got)
	}
}

// TestPreemptAndAbort: it ends the commands of those that it preempts, wherever they are, and nobody else's; a write that the store
// has keeps what overlaps it waiting.
func TestPreemptAndAbort(t *testing.T) {
	r := newPRRig(t, DiskConfig{})
	r.register('a', keyA)
	r.register('b', keyB)
	r.register('c', 0xc)
	r.ok('a', out{action: prReserve, kind: weRO, key: keyA})
	r.st.hold = true
	late := r.started(r.rig.write(r.nx['a'], 0, 8, 'A'), atStore)
	waits := r.started(r.rig.write(r.nx['a'], 4, 8, 'A'), waiting)
	others := r.started(r.rig.write(r.nx['c'], 100, 8, 'C'), atStore)
	r.ok('b', out{action: prPreemptAndAbort, kind: weRO, key: keyB, newKey: keyA})
	if late.state != inDoubt || waits.state != idle || others.state != atStore || r.lu.InDoubt() != 1 {
		t.Fatal(late.state, waits.state, others.state)
	}
	if got := r.attentionsOf(); got != "a:2A05" {
		t.Error("unit attentions", got)
	}
	r.want(r.send('a', transfer(cdb.Write10, 500, 1, 0), make([]byte, 512)), conflicts)
	mine := r.started(r.rig.write(r.nx['b'], 0, 4, 'B'), waiting)
	r.st.hold = false
	for len(r.st.held) > 0 {
		r.st.end(0)
	}
	ended := r.host.turn()
	if !slices.Contains(ended, mine) || !slices.Contains(ended, others) || !slices.Contains(ended, late) || slices.Contains(ended, waits) {
		t.Fatalf("%d ended", len(ended))
	}
	if got := r.send('b', transfer(cdb.Read10, 0, 8, 0), nil).Data; got[0] != 'B' || got[4*512] != 'A' {
		t.Error("the late write undid a later one, or what was aborted is there")
	}
}

// prSaver is a Persistence that ends when the test says.
type prSaver struct {
	saved []byte // what a start would find
	next  []byte
	done  func(error)
	saves int
	auto  bool
}

func (s *prSaver) Save(state []byte, done func(error)) {
	if s.done != nil {
		panic("two at a time")
	}
	s.saves++
	if s.auto {
		s.saved = state
		done(nil)
		return
	}
	s.next, s.done = state, done
}

func (s *prSaver) end(err error) {
	if err == nil {
		s.saved = s.next
	}
	done := s.done
	s.done = nil
	done(err)
}

// begin starts a PERSISTENT RESERVE OUT.
func (r *prRig) begin(who byte, o out) (*Command, Outcome) {
	r.Helper()
	list := o.list()
	c := &Command{Nexus: r.nx[who], CDB: o.cdb(len(list)), OutLen: uint32(len(list)), Owner: list}
	return c, r.start(c)
}

// TestAPTPL: with it, each change is answered when it is durable, one after the other; a failed one changes nothing.
func TestAPTPL(t *testing.T) {
	sv := &prSaver{}
	r := newPRRig(t, DiskConfig{Persistence: sv})
	step := func(who byte, o out, fault error, want, status string) {
		t.Helper()
		before := r.status()
		c, got := r.begin(who, o)
		if got != Pending || sv.done == nil {
			t.Fatal("answered before it was saved", result(c))
		}
		if r.status() != before || r.lu.InFlight() != 1 {
			t.Fatal("changed before it was saved, or not known to be in flight")
		}
		sv.end(fault)
		if len(r.host.ended) != 0 {
			t.Fatal("Done from within Save")
		}
		if ended := r.host.turn(); len(ended) != 1 || ended[0] != c {
			t.Fatal("not ended")
		}
		r.host.ended = nil
		r.want(c, want)
		r.wantStatus(status)
	}
	r.register('b', keyB) // without APTPL: at once
	if sv.saves != 0 {
		t.Fatal("saved without APTPL")
	}
	full := errors.New("no space")
	step('a', out{action: prRegister, newKey: keyA, flags: proutAPTPL}, full, "05/55/04", "b=bbbb")
	step('a', out{action: prRegister, newKey: keyA, flags: proutAPTPL}, nil, "good", "b=bbbb a=aaaa")
	if c := r.send('a', prin(prCapabilities, 8), nil); c.Data[2]&1 != 1 || c.Data[3]&1 != 1 {
		t.Errorf("capabilities % x", c.Data)
	}
	step('a', out{action: prReserve, kind: weRO, key: keyA}, full, "05/55/04", "b=bbbb a=aaaa")
	r.want(r.send('d', transfer(cdb.Write10, 0, 1, 0), make([]byte, 512)), "good")
	step('a', out{action: prReserve, kind: weRO, key: keyA}, nil, "good", "b=bbbb a=aaaa* type 5")
	n := sv.saves
	r.ok('a', out{action: prReserve, kind: weRO, key: keyA}) // no change: nothing to save
	r.lu.Reset(sense.DeviceReset)
	if r.attentionsOf(); sv.saves != n {
		t.Fatal("saved what had not changed")
	}

	// The next start.
	again := newPRRig(t, DiskConfig{Persistence: sv, Reservations: sv.saved})
	again.wantStatus("b=bbbb a=aaaa* type 5")
	again.want(again.send('d', transfer(cdb.Write10, 0, 1, 0), make([]byte, 512)), conflicts)
	again.want(again.send('b', transfer(cdb.Write10, 0, 1, 0), make([]byte, 512)), "good")
	if again.generation() != 0 {
		t.Error("PRGENERATION is not 0 after a restart")
	}

	step('a', out{action: prRegister, key: keyA, newKey: 3}, nil, "good", "b=bbbb a=3* type 5")
	if sv.saved != nil {
		t.Error("APTPL was taken back and something is kept")
	}
	newPRRig(t, DiskConfig{Persistence: sv, Reservations: sv.saved}).wantStatus("")
}

// TestAPTPLWaits: what comes while one is saved takes its turn; an abort ends it, but not the change that is being saved.
func TestAPTPLWaits(t *testing.T) {
	sv := &prSaver{}
	r := newPRRig(t, DiskConfig{Persistence: sv})
	first, _ := r.begin('a', out{action: prRegister, newKey: keyA, flags: proutAPTPL})
	second, o2 := r.begin('b', out{action: prRegister, newKey: keyB, flags: proutAPTPL})
	third, o3 := r.begin('c', out{action: prReserve, kind: we, key: 1})
	fourth, o4 := r.begin('c', out{action: prRegister, newKey: 0xc, flags: proutAPTPL})
	noWait := &Command{Nexus: r.nx['d'], CDB: out{}.cdb(24), OutLen: 24, NoWait: true}
	if !r.lu.Prepare(noWait) || r.lu.Execute(noWait) != WouldBlock {
		t.Error("a command whose data may go away was kept")
	}
	if o2 != Pending || o3 != Pending || o4 != Pending || sv.saves != 1 {
		t.Fatal(o2, o3, o4, sv.saves)
	}
	r.want(r.send('d', []byte{cdb.Reserve6, 0, 0, 0, 0, 0}, nil), "BUSY")
	if !r.lu.Abort(first) || !r.lu.Abort(fourth) || first.Nexus.pending != 0 {
		t.Fatal("an abort waits for a save")
	}
	sv.end(nil)
	r.host.turn()
	r.wantStatus("a=aaaa")
	sv.end(nil)
	if ended := r.host.turn(); !slices.Equal(ended, []*Command{second, third}) {
		t.Fatalf("%d ended", len(ended))
	}
	r.want(third, conflicts)
	r.wantStatus("a=aaaa b=bbbb")
	if sv.done != nil || len(r.lu.pending) != 0 || r.lu.InFlight() != 0 {
		t.Fatal("something is left over")
	}
}

// TestSavedState: what is damaged, cut, of another volume or version is refused, never taken as nothing.
func TestSavedState(t *testing.T) {
	sv := &prSaver{auto: true}
	r := newPRRig(t, DiskConfig{Persistence: sv})
	for _, who := range []byte("ab") {
		c, _ := r.begin(who, out{action: prRegister, newKey: uint64(who), flags: proutAPTPL})
		r.host.turn()
		r.want(c, "good")
	}
	good := sv.saved
	open := func(b []byte) error {
		_, err := NewDisk(newTestStore(t, 1<<20), &testHost{}, DiskConfig{Persistence: sv, Reservations: b})
		return err
	}
	if err := open(good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for _, bit := range []byte{1, 0x80} {
			bad := slices.Clone(good)
			bad[i] ^= bit
			if open(bad) == nil {
				t.Fatalf("byte %d changed: taken", i)
			}
		}
		if i > 0 && open(good[:i]) == nil {
			t.Fatalf("cut to %d bytes: taken", i)
		}
	}
	if open(append(slices.Clone(good), 0)) == nil {
		t.Error("one byte too many: taken")
	}
	_, err := NewDisk(newTestStore(t, 1<<20), &testHost{}, DiskConfig{Identity: "another", Persistence: sv, Reservations: good})
	if err == nil || !strings.Contains(err.Error(), "belongs to volume") {
		t.Error("another volume's:", err)
	}
	if p, err := decodePersistent(good, r.lu.id.NAA); err != nil || !bytes.Equal(p.encode(r.lu.id.NAA), good) {
		t.Error("not the same when written again", err)
	}
}

// TestManyRegistrations: there is a bound, and one too many changes nothing.
func TestManyRegistrations(t *testing.T) {
	r := newPRRig(t, DiskConfig{})
	for i := range maxRegistrations {
		n := prNexus('e')
		n.Initiator += fmt.Sprint(i)
		r.nx['e'] = r.lu.Attach(n)
		r.nx['e'].attentions = 0
		r.register('e', uint64(i+1))
		r.lu.Detach(r.nx['e'])
	}
	if got := r.out('a', out{action: prRegister, newKey: 1}); got != "05/55/04" {
		t.Error(got)
	}
	if c := r.send('a', prin(prReadKeys, 0xffff), nil); len(c.Data) != 8+8*maxRegistrations {
		t.Error(len(c.Data))
	}
}
