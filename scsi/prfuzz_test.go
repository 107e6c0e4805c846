package scsi

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// FuzzReservations sends PERSISTENT RESERVE OUT with arbitrary parameter lists from four nexuses: whatever comes, the state makes
// sense, and is the same when it has been saved and read back. As long as only what the plain model knows has changed anything, results and
// state are the model's.
func FuzzReservations(f *testing.F) {
	step := func(who, action, kind byte, list []byte) []byte {
		return append([]byte{who, action, kind, byte(len(list))}, list...)
	}
	register := out{newKey: keyA, flags: proutAPTPL}.list()
	f.Add(bytes.Join([][]byte{
		step(0, prRegister, 0, register), step(1, prRegisterAndIgnore, 0, register), step(0, prReserve, 5, out{key: keyA}.list()),
		step(1, prPreemptAndAbort, 7, out{key: keyA, newKey: keyA}.list()), step(1, prRelease, 7, out{key: keyA}.list()), step(0, prClear, 0, register),
	}, nil))
	f.Add(step(2, prRegister, 0, out{newKey: 1, flags: proutAPTPL | proutSpecPorts | proutAllPorts, extra: spec(tid('a'), nameTID("iqn.2024-01.example:b"))}.list()))
	move := out{key: keyA, newKey: 2, extra: tid('e')}.list()
	move[17], move[19], move[23] = moveUnreg|moveAPTPL, 1, byte(len(tid('e')))
	f.Add(bytes.Join([][]byte{step(0, prRegister, 0, register), step(0, prReserve, 3, out{key: keyA}.list()), step(0, prRegisterAndMove, 0, move)}, nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		sv := &prSaver{auto: true}
		r := newPRRig(t, DiskConfig{Persistence: sv})
		m := (&plainPR{}).clone()
		for len(in) >= 4 {
			who, action, kind, n := "abcd"[in[0]%4], in[1]%9, prType(in[2]), min(int(in[3]), len(in)-4)
			list := bytes.Clone(in[4 : 4+n])
			in = in[4+n:]
			r.nx[who].attentions = 0
			c := &Command{Nexus: r.nx[who], CDB: out{action: action, kind: kind}.cdb(n), OutLen: uint32(n), Owner: list}
			before, was := r.lu.pr.encode(r.lu.id.NAA), r.status()
			r.start(c)
			r.host.turn()
			m = m.follow(t, r, who, action, kind, list, result(c), r.status() == was)
			p := &r.lu.pr
			state := p.encode(r.lu.id.NAA)
			if result(c) != "good" && !bytes.Equal(state, before) {
				t.Fatalf("%s changed something", result(c))
			}
			if p.kind != 0 && (!p.kind.valid() || len(p.regs) == 0 || !p.kind.all() && p.find(p.holder) < 0) {
				t.Fatalf("type %d, held by %v of %d", p.kind, p.holder, len(p.regs))
			}
			for i := range p.regs {
				if p.regs[i].key == 0 || p.find(p.regs[i].nexus) != i {
					t.Fatal("a registration without key, or twice")
				}
			}
			if !bytes.Equal(state, sv.saved) {
				t.Fatal("what is saved is not what is")
			}
			if again, err := decodePersistent(state, r.lu.id.NAA); err != nil || !bytes.Equal(again.encode(r.lu.id.NAA), state) {
				t.Fatal("not read back:", err)
			}
			if len(r.lu.pending) != 0 || r.lu.saving.busy {
				t.Fatal("something is left over")
			}
		}
	})
}

// follow has the model do what ended as got, if it knows it, and compares; nil: from now on there is nothing to compare with.
func (m *plainPR) follow(t *testing.T, r *prRig, who, action byte, kind prType, list []byte, got string, unchanged bool) *plainPR {
	if m == nil {
		return nil
	}
	typed := action == prReserve || action == prRelease || action == prPreempt || action == prPreemptAndAbort
	plain := len(list) == proutList && action != prRegisterAndMove && list[20]&^proutAPTPL == 0 && (!typed || kind.valid())
	for i, b := range list {
		plain = plain && (i < 16 || i == 20 || b == 0)
	}
	if !plain || action > prRegisterAndMove {
		if got == "good" && !unchanged {
			return nil
		}
		return m
	}
	o := out{action: action, kind: kind, key: binary.BigEndian.Uint64(list), newKey: binary.BigEndian.Uint64(list[8:]), flags: list[20]}
	next := m.clone()
	if want := next.do(who, o); got != want {
		t.Fatalf("%c: service action %d, type %d, key %x, new key %x: %s, want %s; %s", who, action, kind, o.key, o.newKey, got, want, m)
	} else if want != "good" {
		next = m
	}
	if now := r.status(); now != next.String() {
		t.Fatalf("%c: service action %d: %q, want %q", who, action, now, next)
	}
	return next
}

// FuzzSavedState: whatever a state file holds, it is read as what it says or refused.
func FuzzSavedState(f *testing.F) {
	p := persistent{aptpl: true, kind: weRO, holder: prNexus('b'), regs: []registration{{prNexus('a'), 1, 1}, {prNexus('b'), 1, 2}}}
	f.Add(p.encode(1)[:len(p.encode(1))-4])
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, in := range [][]byte{b, appendChecksum(b)} {
			if p, err := decodePersistent(in, 1); err == nil && !bytes.Equal(p.encode(1), in) {
				t.Fatalf("% x is read as % x", in, p.encode(1))
			}
		}
	})
}
