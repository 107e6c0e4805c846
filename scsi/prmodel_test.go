package scsi

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// A plainPR is SPC-4 §5.13 written down as plainly as it can be, for nexuses a to d, to compare with.
type plainPR struct {
	keys  map[byte]uint64
	order []byte // of registration
	kind  prType
	owner byte // of a reservation that not all hold
	keeps bool // APTPL
	ua    map[byte][]string
}

func (m *plainPR) clone() *plainPR {
	c := &plainPR{keys: map[byte]uint64{}, order: slices.Clone(m.order), kind: m.kind, owner: m.owner, keeps: m.keeps, ua: map[byte][]string{}}
	for who, key := range m.keys {
		c.keys[who] = key
	}
	for who, list := range m.ua {
		c.ua[who] = slices.Clone(list)
	}
	return c
}

func (m *plainPR) all() bool { return m.kind == 7 || m.kind == 8 }

func (m *plainPR) holder(who byte) bool {
	return m.kind != 0 && m.keys[who] != 0 && (m.all() || m.owner == who)
}

func (m *plainPR) tell(who byte, code string) {
	if !slices.Contains(m.ua[who], code) {
		m.ua[who] = append(m.ua[who], code)
	}
}

func (m *plainPR) tellOthers(but byte, code string) {
	for _, who := range m.order {
		if who != but {
			m.tell(who, code)
		}
	}
}

func (m *plainPR) drop(who byte) {
	delete(m.keys, who)
	m.order = slices.DeleteFunc(m.order, func(o byte) bool { return o == who })
}

func (m *plainPR) put(who byte, key uint64) {
	if m.keys[who] == 0 {
		m.order = append(m.order, who)
	}
	m.keys[who] = key
}

// do is one PERSISTENT RESERVE OUT of who; how it ends.
func (m *plainPR) do(who byte, o out) string {
	registered := m.keys[who] != 0
	if o.action == prRegister || o.action == prRegisterAndIgnore {
		if o.action == prRegister && m.keys[who] != o.key {
			return conflicts
		}
		if !registered && o.newKey == 0 {
			return "good"
		}
		if m.keeps = o.flags&proutAPTPL != 0; o.newKey != 0 {
			m.put(who, o.newKey)
			return "good"
		}
		wasOwner := m.kind != 0 && !m.all() && m.owner == who
		m.drop(who)
		if wasOwner {
			if m.kind == 5 || m.kind == 6 {
				m.tellOthers(who, "2A04")
			}
			m.kind = 0
		}
		if len(m.order) == 0 {
			m.kind = 0
		}
		return "good"
	}
	if !registered || m.keys[who] != o.key {
		return conflicts
	}
	switch o.action {
	case prReserve:
		if m.kind == 0 {
			m.kind, m.owner = o.kind, who
			return "good"
		}
		if m.holder(who) && m.kind == o.kind {
			return "good"
		}
		return conflicts
	case prRelease:
		if !m.holder(who) {
			return "good"
		}
		if m.kind != o.kind {
			return "05/26/04"
		}
		if m.kind >= 5 {
			m.tellOthers(who, "2A04")
		}
		m.kind = 0
		return "good"
	case prClear:
		m.tellOthers(who, "2A03")
		m.keys, m.order, m.kind = map[byte]uint64{}, nil, 0
		return "good"
	}
	// PREEMPT
	takes := m.kind != 0 && (m.all() && o.newKey == 0 || !m.all() && o.newKey == m.keys[m.owner])
	if o.newKey == 0 && !takes {
		return "05/26/00"
	}
	gone := []byte{}
	for _, other := range slices.Clone(m.order) {
		victim := m.keys[other] == o.newKey || o.newKey == 0
		if victim && !(takes && other == who) {
			gone = append(gone, other)
			m.drop(other)
		}
	}
	if !takes && len(gone) == 0 {
		return conflicts
	}
	for _, other := range gone {
		if other != who {
			m.tell(other, "2A05")
		}
	}
	if takes {
		if m.kind != o.kind {
			m.tellOthers(who, "2A04")
		}
		m.kind, m.owner = o.kind, who
	} else if len(m.order) == 0 {
		m.kind = 0
	}
	return "good"
}

// may is whether who may read or write.
func (m *plainPR) may(who byte, write bool) bool {
	switch {
	case m.kind == 0, m.holder(who):
		return true
	case m.kind >= 5 && m.keys[who] != 0:
		return true
	case write:
		return false
	}
	return m.kind == 1 || m.kind == 5 || m.kind == 7
}

func (m *plainPR) String() string {
	var words []string
	for _, who := range m.order {
		mark := ""
		if m.holder(who) {
			mark = "*"
		}
		words = append(words, fmt.Sprintf("%c=%x%s", who, m.keys[who], mark))
	}
	if m.kind != 0 {
		words = append(words, fmt.Sprintf("type %x", byte(m.kind)))
	}
	return strings.Join(words, " ")
}

// randomSaver ends every Save at once, some with an error.
type randomSaver struct {
	rnd    *rand.Rand
	saved  []byte
	failed bool
}

func (s *randomSaver) Save(state []byte, done func(error)) {
	if s.failed = s.rnd.IntN(8) == 0; s.failed {
		done(errors.New("no space"))
		return
	}
	s.saved = state
	done(nil)
}

// TestReservationModel: random service actions, logins, resets, restarts, reads and writes of four nexuses end as the
// plain model says, with its unit attentions.
func TestReservationModel(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		sv := &randomSaver{rnd: rnd}
		r := newPRRig(t, DiskConfig{Persistence: sv})
		m := (&plainPR{}).clone()
		var history []string
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("seed %d: %s\n%s", seed, fmt.Sprintf(format, args...), strings.Join(history[max(0, len(history)-12):], "\n"))
		}
		for range 400 {
			who := "abcd"[rnd.IntN(4)]
			switch rnd.IntN(12) {
			case 0:
				history = append(history, fmt.Sprintf("%c logs in again", who))
				r.lu.Detach(r.nx[who])
				r.login(who)
				m.ua[who] = nil
			case 1:
				history = append(history, "reset")
				r.lu.Reset(sense.DeviceReset)
				for _, n := range r.nx {
					n.attentions &^= 1<<resetClass - 1
				}
			case 2:
				history = append(history, "restart")
				r = newPRRig(t, DiskConfig{Persistence: sv, Reservations: sv.saved})
				if !m.keeps {
					m = &plainPR{}
				}
				m.ua = map[byte][]string{}
				m = m.clone()
				m.keeps = m.keeps && len(m.order) != 0
			case 3, 4:
				write := rnd.IntN(2) == 0
				b, data := transfer(cdb.Read10, 0, 1, 0), []byte(nil)
				if write {
					b, data = transfer(cdb.Write10, 0, 1, 0), make([]byte, 512)
				}
				held := r.nx[who].attentions
				r.nx[who].attentions = 0
				got := result(r.send(who, b, data))
				r.nx[who].attentions = held
				if (got == "good") != m.may(who, write) || got != "good" && got != conflicts {
					fail("%c, write %v: %s; %s", who, write, got, m)
				}
			default:
				o := out{action: byte(rnd.IntN(7)), kind: allTypes[rnd.IntN(len(allTypes))], key: uint64(rnd.IntN(4))}
				if rnd.IntN(3) != 0 {
					o.key = m.keys[who] // mostly right
				}
				if rnd.IntN(3) != 0 && m.kind != 0 {
					o.kind = m.kind
				}
				o.newKey = uint64(rnd.IntN(4))
				if rnd.IntN(2) == 0 {
					o.flags = proutAPTPL
				}
				history = append(history, fmt.Sprintf("%c: %s type %d key %x new %x flags %x", who, cdb.Name(o.cdb(24)), o.kind, o.key, o.newKey, o.flags))
				next := m.clone()
				want := next.do(who, o)
				held := r.nx[who].attentions
				r.nx[who].attentions = 0
				c, _ := r.begin(who, o)
				r.host.turn()
				r.nx[who].attentions |= held
				got := result(c)
				if got == "05/55/04" && sv.failed {
					want = got
				} else if want == "good" {
					m = next
				}
				if sv.failed = false; got != want {
					fail("%s, want %s; %s", got, want, m)
				}
			}
			if got := r.status(); got != m.String() {
				fail("%q, want %q", got, m)
			}
			for _, who := range []byte("abcd") {
				var want []string
				want = append(want, m.ua[who]...)
				slices.Sort(want)
				var got []string
				for i, code := range attentions {
					if r.nx[who].attentions&(1<<i) != 0 {
						got = append(got, fmt.Sprintf("%04X", uint16(code)))
					}
				}
				if !slices.Equal(got, want) {
					fail("%c: unit attentions %v, want %v", who, got, want)
				}
			}
		}
	}
}
