package scsi

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// A prRig is a disk with four nexuses, a to d: a and b of one initiator with two ISIDs, c and d of others.
type prRig struct {
	*rig
	nx map[byte]*NexusLU
}

const (
	prTarget = "iqn.2024-01.example:t"
	keyA     = 0xaaaa
	keyB     = 0xbbbb
)

func prNexus(who byte) sam.Nexus {
	n := sam.Nexus{Initiator: "iqn.2024-01.example:" + string(who), Target: prTarget, PortGroup: 1}
	if who == 'b' {
		n.Initiator, n.ISID = "iqn.2024-01.example:a", [6]byte{0x80, 1, 2, 3, 4, 5}
	}
	return n
}

func newPRRig(t testing.TB, cfg DiskConfig) *prRig {
	r := &prRig{rig: newRig(t, newTestStore(t, 1<<20), cfg), nx: map[byte]*NexusLU{}}
	r.lu.Detach(r.rig.nx)
	for _, who := range []byte("abcd") {
		r.login(who)
	}
	return r
}

// login attaches a nexus and takes its power on condition.
func (r *prRig) login(who byte) {
	r.nx[who] = r.lu.Attach(prNexus(who))
	r.nx[who].attentions = 0
}

// send runs a command of a nexus that has to end at once and returns how it ended.
func (r *prRig) send(who byte, b, data []byte) *Command {
	r.Helper()
	c := &Command{Nexus: r.nx[who], CDB: b, OutLen: uint32(len(data)), Owner: data}
	if r.start(c) != Done {
		r.Fatalf("%s went pending", cdb.Describe(b))
	}
	return c
}

// An out is one PERSISTENT RESERVE OUT.
type out struct {
	action byte
	kind   prType
	key    uint64
	newKey uint64
	flags  byte   // byte 20
	extra  []byte // behind the 24 bytes
}

func (o out) cdb(length int) []byte {
	b := make([]byte, 10)
	b[0], b[1], b[2] = cdb.PersistentOut, o.action, byte(o.kind)
	binary.BigEndian.PutUint32(b[5:], uint32(length))
	return b
}

func (o out) list() []byte {
	b := make([]byte, 24, 24+len(o.extra))
	binary.BigEndian.PutUint64(b, o.key)
	binary.BigEndian.PutUint64(b[8:], o.newKey)
	b[20] = o.flags
	return append(b, o.extra...)
}

func (r *prRig) out(who byte, o out) string {
	r.Helper()
	list := o.list()
	return result(r.send(who, o.cdb(len(list)), list))
}

// ok runs a PERSISTENT RESERVE OUT that has to succeed.
func (r *prRig) ok(who byte, o out) {
	r.Helper()
	if got := r.out(who, o); got != "good" {
		r.Fatalf("%c: %s: %s", who, cdb.Describe(o.cdb(24)), got)
	}
}

func (r *prRig) register(who byte, key uint64) {
	r.Helper()
	r.ok(who, out{action: prRegisterAndIgnore, newKey: key})
}

func prin(action byte, allocation uint16) []byte {
	return []byte{cdb.PersistentIn, action, 0, 0, 0, 0, 0, byte(allocation >> 8), byte(allocation), 0}
}

// status describes registrations and reservation as READ FULL STATUS tells them: "a=aaaa* b=bbbb type 5".
func (r *prRig) status() string {
	r.Helper()
	var who byte
	for who = range r.nx {
		break
	}
	held := r.nx[who].attentions
	r.nx[who].attentions = 0
	c := r.send(who, prin(prReadFullStatus, 0xffff), nil)
	r.nx[who].attentions = held
	if c.Status != sam.Good {
		return result(c)
	}
	var words []string
	kind := byte(0)
	b := c.Data[8:]
	if int(binary.BigEndian.Uint32(c.Data[4:])) != len(b) {
		r.Fatalf("ADDITIONAL LENGTH of % x", c.Data)
	}
	for len(b) > 0 {
		n := 24 + int(binary.BigEndian.Uint32(b[20:]))
		id, rest, ok := parseTransportID(b[24:n])
		if !ok || len(rest) != 0 || !id.port {
			r.Fatalf("TransportID % x", b[24:n])
		}
		name := "?"
		for _, w := range "abcde" {
			if nx := prNexus(byte(w)); nx.Initiator == id.initiator && nx.ISID == id.isid {
				name = string(w)
			}
		}
		if port := binary.BigEndian.Uint16(b[18:]); port != 1 {
			name += fmt.Sprintf("/%d", port)
		}
		mark := ""
		if b[12]&1 != 0 {
			mark, kind = "*", b[13]
		}
		words = append(words, fmt.Sprintf("%s=%x%s", name, binary.BigEndian.Uint64(b), mark))
		b = b[n:]
	}
	if kind != 0 {
		words = append(words, fmt.Sprintf("type %x", kind))
	}
	return strings.Join(words, " ")
}

func (r *prRig) wantStatus(want string) {
	r.Helper()
	if got := r.status(); got != want {
		r.Fatalf("%q, want %q", got, want)
	}
}

// attentionsOf takes the unit attentions of all nexuses: "b:2A03 c:2A05".
func (r *prRig) attentionsOf() string {
	var words []string
	for _, who := range []byte("abcd") {
		for n := r.nx[who]; n != nil && n.attentions != 0; {
			words = append(words, fmt.Sprintf("%c:%04X", who, uint16(n.take())))
		}
	}
	return strings.Join(words, " ")
}

func (r *prRig) generation() uint32 {
	r.Helper()
	return binary.BigEndian.Uint32(r.send('d', prin(prReadKeys, 8), nil).Data)
}

// allTypes are the types of reservation.
var allTypes = []prType{prWriteExclusive, prExclusiveAccess, prWriteExclusiveRO, prExclusiveAccessRO, prWriteExclusiveAR, prExclusiveAccessAR}

const conflicts = "RESERVATION CONFLICT"

// TestRegister: the tables of REGISTER and REGISTER AND IGNORE EXISTING KEY (SPC-4 §5.13.7).
func TestRegister(t *testing.T) {
	unknown := []byte{0, 0, 0, 24, 0x45, 0, 0, 20}
	unknown = append(unknown, "iqn.x,i,0x1\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)
	for _, k := range []struct {
		name       string
		registered bool // a, with keyA
		o          out
		want       string
		status     string
		generation uint32 // by how much it grows
	}{
		{"nothing", false, out{action: prRegister}, "good", "", 0},
		{"new", false, out{action: prRegister, newKey: 5}, "good", "a=5", 1},
		{"new with a key", false, out{action: prRegister, key: 1, newKey: 5}, conflicts, "", 0},
		{"wrong key", true, out{action: prRegister, key: 1, newKey: 5}, conflicts, "a=aaaa", 0},
		{"no key", true, out{action: prRegister, newKey: 5}, conflicts, "a=aaaa", 0},
		{"change", true, out{action: prRegister, key: keyA, newKey: 5}, "good", "a=5", 1},
		{"unregister", true, out{action: prRegister, key: keyA}, "good", "", 1},
		{"change and specify", true, out{prRegister, 0, keyA, 5, proutSpecPorts, unknown}, "05/24/00", "a=aaaa", 0},
		{"ignore: nothing", false, out{action: prRegisterAndIgnore, key: 9}, "good", "", 0},
		{"ignore: new", false, out{action: prRegisterAndIgnore, key: 9, newKey: 5}, "good", "a=5", 1},
		{"ignore: change", true, out{action: prRegisterAndIgnore, key: 9, newKey: 5}, "good", "a=5", 1},
		{"ignore: unregister", true, out{action: prRegisterAndIgnore, key: 9}, "good", "", 1},
		{"ignore and specify", false, out{prRegisterAndIgnore, 0, 0, 5, proutSpecPorts, unknown}, "05/26/00", "", 0},
		{"APTPL where nothing is kept", false, out{action: prRegister, newKey: 5, flags: proutAPTPL}, "05/26/00", "", 0},
		{"long list", false, out{prRegister, 0, 0, 5, 0, unknown}, "05/1A/00", "", 0},
		{"scope and type are ignored", false, out{action: prRegister, kind: 0xf2, newKey: 5}, "good", "a=5", 1},
	} {
		t.Run(k.name, func(t *testing.T) {
			r := newPRRig(t, DiskConfig{})
			if k.registered {
				r.register('a', keyA)
			}
			before := r.generation()
			if got := r.out('a', k.o); got != k.want {
				t.Errorf("%s, want %s", got, k.want)
			}
			r.wantStatus(k.status)
			if got := r.generation() - before; got != k.generation {
				t.Errorf("PRGENERATION grew by %d, want %d", got, k.generation)
			}
			if got := r.attentionsOf(); got != "" {
				t.Error("unit attentions", got)
			}
		})
	}
}

// A prCase is a row of the tables below: a is registered with keyA, b and c with keyB; holder, if any, has the
// reservation of the type.
type prCase struct {
	name   string
	holder byte
	held   prType
	by     byte
	o      out
	want   string
	status string // d is registered never
	heard  string // unit attentions
	grows  uint32
}

func (k *prCase) run(t *testing.T) {
	r := newPRRig(t, DiskConfig{})
	r.register('a', keyA)
	r.register('b', keyB)
	r.register('c', keyB)
	if k.holder != 0 {
		r.ok(k.holder, out{action: prReserve, kind: k.held, key: map[byte]uint64{'a': keyA, 'b': keyB, 'c': keyB}[k.holder]})
	}
	before := r.generation()
	if got := r.out(k.by, k.o); got != k.want {
		t.Errorf("%s, want %s", got, k.want)
	}
	heard := r.attentionsOf()
	r.wantStatus(k.status)
	if heard != k.heard {
		t.Errorf("unit attentions %q, want %q", heard, k.heard)
	}
	if got := r.generation() - before; got != k.grows {
		t.Errorf("PRGENERATION grew by %d, want %d", got, k.grows)
	}
}

const (
	nobodyHolds = "a=aaaa b=bbbb c=bbbb"
	weRO        = prWriteExclusiveRO
	eaRO        = prExclusiveAccessRO
	eaAR        = prExclusiveAccessAR
	weAR        = prWriteExclusiveAR
	we          = prWriteExclusive
	ea          = prExclusiveAccess
)

// TestServiceActions: what each service action does, to whom, and who hears of it (SPC-4 §5.13.9 to 11).
func TestServiceActions(t *testing.T) {
	moved := func(action byte, o out) out { o.action = action; return o }
	for _, k := range []prCase{
		{"RESERVE unregistered", 0, 0, 'd', out{action: prReserve, kind: we}, conflicts, nobodyHolds, "", 0},
		{"RESERVE wrong key", 0, 0, 'a', out{action: prReserve, kind: we, key: keyB}, conflicts, nobodyHolds, "", 0},
		{"RESERVE type 0", 0, 0, 'a', out{action: prReserve, key: keyA}, "05/24/00", nobodyHolds, "", 0},
		{"RESERVE type 2", 0, 0, 'a', out{action: prReserve, kind: 2, key: keyA}, "05/24/00", nobodyHolds, "", 0},
		{"RESERVE type 9", 0, 0, 'a', out{action: prReserve, kind: 9, key: keyA}, "05/24/00", nobodyHolds, "", 0},
		{"RESERVE an extent", 0, 0, 'a', out{action: prReserve, kind: 0x11, key: keyA}, "05/24/00", nobodyHolds, "", 0},
		{"RESERVE again", 'a', we, 'a', out{action: prReserve, kind: we, key: keyA}, "good", "a=aaaa* b=bbbb c=bbbb type 1", "", 0},
		{"RESERVE another type", 'a', we, 'a', out{action: prReserve, kind: ea, key: keyA}, conflicts, "a=aaaa* b=bbbb c=bbbb type 1", "", 0},
		{"RESERVE of another", 'a', we, 'b', out{action: prReserve, kind: we, key: keyB}, conflicts, "a=aaaa* b=bbbb c=bbbb type 1", "", 0},
		{"RESERVE of another, registrants only", 'a', weRO, 'b', out{action: prReserve, kind: weRO, key: keyB}, conflicts, "a=aaaa* b=bbbb c=bbbb type 5", "", 0},
		{"RESERVE what all hold", 'a', weAR, 'b', out{action: prReserve, kind: weAR, key: keyB}, "good", "a=aaaa* b=bbbb* c=bbbb* type 7", "", 0},
		{"RESERVE ignores APTPL", 0, 0, 'a', out{action: prReserve, kind: we, key: keyA, flags: proutAPTPL}, "good", "a=aaaa* b=bbbb c=bbbb type 1", "", 0},
		{"RESERVE and specify", 0, 0, 'a', out{prReserve, we, keyA, 0, proutSpecPorts, []byte{0, 0, 0, 0}}, "05/26/00", nobodyHolds, "", 0},

		{"RELEASE unregistered", 'a', we, 'd', out{action: prRelease, kind: we}, conflicts, "a=aaaa* b=bbbb c=bbbb type 1", "", 0},
		{"RELEASE nothing", 0, 0, 'a', out{action: prRelease, kind: we, key: keyA}, "good", nobodyHolds, "", 0},
		{"RELEASE another's", 'a', we, 'b', out{action: prRelease, kind: we, key: keyB}, "good", "a=aaaa* b=bbbb c=bbbb type 1", "", 0},
		{"RELEASE wrong key", 'a', we, 'a', out{action: prRelease, kind: we, key: keyB}, conflicts, "a=aaaa* b=bbbb c=bbbb type 1", "", 0},
		{"RELEASE another type", 'a', we, 'a', out{action: prRelease, kind: ea, key: keyA}, "05/26/04", "a=aaaa* b=bbbb c=bbbb type 1", "", 0},
		{"RELEASE", 'a', we, 'a', out{action: prRelease, kind: we, key: keyA}, "good", nobodyHolds, "", 0},
		{"RELEASE exclusive access", 'a', ea, 'a', out{action: prRelease, kind: ea, key: keyA}, "good", nobodyHolds, "", 0},
		{"RELEASE registrants only", 'a', weRO, 'a', out{action: prRelease, kind: weRO, key: keyA}, "good", nobodyHolds, "b:2A04 c:2A04", 0},
		{"RELEASE what all hold", 'a', eaAR, 'b', out{action: prRelease, kind: eaAR, key: keyB}, "good", nobodyHolds, "a:2A04 c:2A04", 0},

		{"unregister the holder", 'a', we, 'a', out{action: prRegister, key: keyA}, "good", "b=bbbb c=bbbb", "", 1},
		{"unregister the holder, registrants only", 'a', eaRO, 'a', out{action: prRegister, key: keyA}, "good", "b=bbbb c=bbbb", "b:2A04 c:2A04", 1},
		{"unregister one of all", 'a', weAR, 'a', out{action: prRegister, key: keyA}, "good", "b=bbbb* c=bbbb* type 7", "", 1},
		{"unregister another", 'a', weRO, 'b', out{action: prRegister, key: keyB}, "good", "a=aaaa* c=bbbb type 5", "", 1},
		{"the holder's key changes", 'a', weRO, 'a', out{action: prRegister, key: keyA, newKey: 7}, "good", "a=7* b=bbbb c=bbbb type 5", "", 1},

		{"CLEAR unregistered", 'a', we, 'd', out{action: prClear}, conflicts, "a=aaaa* b=bbbb c=bbbb type 1", "", 0},
		{"CLEAR", 'a', we, 'b', out{action: prClear, key: keyB}, "good", "", "a:2A03 c:2A03", 1},
		{"CLEAR without reservation", 0, 0, 'a', out{action: prClear, key: keyA, kind: 9}, "good", "", "b:2A03 c:2A03", 1},
		{"CLEAR wrong key", 0, 0, 'a', out{action: prClear, key: keyB}, conflicts, nobodyHolds, "", 0},

		{"PREEMPT unregistered", 'a', we, 'd', out{action: prPreempt, kind: we, newKey: keyA}, conflicts, "a=aaaa* b=bbbb c=bbbb type 1", "", 0},
		{"PREEMPT the holder", 'a', we, 'b', out{action: prPreempt, kind: we, key: keyB, newKey: keyA}, "good", "b=bbbb* c=bbbb type 1", "a:2A05", 1},
		{"PREEMPT with another type", 'a', we, 'b', out{action: prPreempt, kind: weRO, key: keyB, newKey: keyA}, "good", "b=bbbb* c=bbbb type 5", "a:2A05 c:2A04", 1},
		{"PREEMPT with type 0", 'a', we, 'b', out{action: prPreempt, key: keyB, newKey: keyA}, "05/24/00", "a=aaaa* b=bbbb c=bbbb type 1", "", 0},
		{"PREEMPT others only", 'a', we, 'a', out{action: prPreempt, kind: 9, key: keyA, newKey: keyB}, "good", "a=aaaa* type 1", "b:2A05 c:2A05", 1},
		{"PREEMPT oneself too", 'a', we, 'b', out{action: prPreempt, kind: we, key: keyB, newKey: keyB}, "good", "a=aaaa* type 1", "c:2A05", 1},
		{"PREEMPT the own reservation", 'b', we, 'b', out{action: prPreempt, kind: eaRO, key: keyB, newKey: keyB}, "good", "a=aaaa b=bbbb* type 6", "a:2A04 c:2A05", 1},
		{"PREEMPT without reservation", 0, 0, 'a', out{action: prPreempt, kind: we, key: keyA, newKey: keyB}, "good", "a=aaaa", "b:2A05 c:2A05", 1},
		{"PREEMPT nobody's key", 'a', we, 'a', out{action: prPreempt, kind: we, key: keyA, newKey: 99}, conflicts, "a=aaaa* b=bbbb c=bbbb type 1", "", 0},
		{"PREEMPT key 0", 'a', we, 'a', out{action: prPreempt, kind: we, key: keyA}, "05/26/00", "a=aaaa* b=bbbb c=bbbb type 1", "", 0},
		{"PREEMPT key 0 without reservation", 0, 0, 'a', out{action: prPreempt, kind: we, key: keyA}, "05/26/00", nobodyHolds, "", 0},
		{"PREEMPT all that hold", 'a', weAR, 'b', out{action: prPreempt, kind: ea, key: keyB}, "good", "b=bbbb* type 3", "a:2A05 c:2A05", 1},
		{"PREEMPT all that hold, same type", 'a', weAR, 'b', out{action: prPreempt, kind: weAR, key: keyB}, "good", "b=bbbb* type 7", "a:2A05 c:2A05", 1},
		{"PREEMPT one of all", 'a', weAR, 'b', out{action: prPreempt, kind: ea, key: keyB, newKey: keyA}, "good", "b=bbbb* c=bbbb* type 7", "a:2A05", 1},
		{"PREEMPT AND ABORT", 'a', eaRO, 'b', out{action: prPreemptAndAbort, kind: eaRO, key: keyB, newKey: keyA}, "good", "b=bbbb* c=bbbb type 6", "a:2A05", 1},

		{"unknown service action", 0, 0, 'a', moved(8, out{key: keyA}), "05/24/00", nobodyHolds, "", 0},
	} {
		t.Run(k.name, k.run)
	}
}

// TestLastOfAll: an all registrants' reservation ends with the last registration, however that ends, and without a word to anybody.
func TestLastOfAll(t *testing.T) {
	for _, o := range []out{
		{action: prRegister, key: keyA},
		{action: prPreempt, key: keyA, newKey: keyA},
	} {
		r := newPRRig(t, DiskConfig{})
		r.register('a', keyA)
		r.ok('a', out{action: prReserve, kind: weAR, key: keyA})
		r.ok('a', o)
		r.wantStatus("")
		r.want(r.send('d', transfer(cdb.Write10, 0, 1, 0), make([]byte, 512)), "good")
		if got := r.attentionsOf(); got != "" {
			t.Error("unit attentions", got)
		}
	}
}

// TestParameterListLength: of PERSISTENT RESERVE OUT.
func TestParameterListLength(t *testing.T) {
	r := newPRRig(t, DiskConfig{})
	o := out{action: prRegister, newKey: 1}
	for _, k := range []struct {
		says, sends int
		want        string
	}{
		{0, 0, "05/1A/00"}, {23, 23, "05/1A/00"}, {24, 23, "05/0E/03"}, {25, 25, "05/1A/00"}, {1 << 20, 1 << 20, "05/24/00"}, {24, 64, "good"}, {24, 24, conflicts},
	} {
		if got := result(r.send('a', o.cdb(k.says), append(o.list(), make([]byte, 1<<20)...)[:k.sends])); got != k.want {
			t.Errorf("a list of %d, %d sent: %s, want %s", k.says, k.sends, got, k.want)
		}
	}
	r.wantStatus("a=1")
}
