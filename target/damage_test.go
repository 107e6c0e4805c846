package target

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/target/evloop"
	"golang.org/x/sys/unix"
)

// A wire is one PDU as it goes over the wire, and what to make of it.
type wire struct {
	lead []byte // PDUs that go before it
	b    []byte
	head int // bytes of header, AHS and header digest
	h    pdu.Header
}

// frame makes a PDU of c's.
func frame(c *initiator.Conn, h *pdu.Header, ahs, data []byte) wire {
	h.SetAHSLen(len(ahs))
	h.SetDataLen(len(data))
	w := wire{b: initiator.Frame(h, ahs, data, c.HeaderDigest, c.DataDigest), head: pdu.HeaderLen + len(ahs), h: *h}
	if c.HeaderDigest {
		w.head += pdu.DigestLen
	}
	return w
}

// send sends w, or b in its place, behind what goes before it.
func (w wire) send(r *rig, c *initiator.Conn, b []byte) {
	r.t.Helper()
	if err := c.SendBytes(slices.Concat(w.lead, b)); err != nil {
		r.t.Fatal(err)
	}
}

// flipped returns w with one bit of byte i wrong.
func (w wire) flipped(i int) []byte {
	b := slices.Clone(w.b)
	b[i] ^= 1 << (i % 8)
	return b
}

// feed sends pieces to the target in such a way that it reads each by itself.
func (r *rig) feed(c *initiator.Conn, n byte, pieces ...[]byte) {
	r.t.Helper()
	l := r.tg.l
	l.ev.Lock()
	defer l.ev.Unlock()
	var tc *conn
	for _, se := range r.tg.sessions {
		if se.s.Nexus.ISID[5] == n {
			tc = se.s.Conns()[0].Ref.(*conn)
		}
	}
	for _, p := range pieces {
		if err := c.SendBytes(p); err != nil {
			r.t.Fatal(err)
		}
		for deadline := time.Now().Add(testWait); ; runtime.Gosched() {
			got, err := unix.IoctlGetInt(tc.fd, unix.TIOCINQ)
			if err != nil || time.Now().After(deadline) {
				r.t.Fatalf("%d of %d bytes come, %v", got, len(p), err)
			}
			if got == len(p) {
				break
			}
		}
		for tc.Ready(evloop.Readable) {
		}
		if tc.dead {
			break
		}
	}
	l.EndTurn()
}

// wantReject takes the Reject of a PDU with damaged data.
func (r *rig) wantReject(c *initiator.Conn, of *pdu.Header) {
	r.t.Helper()
	p, err := c.Expect(pdu.OpReject)
	if err != nil {
		r.t.Fatal(err)
	}
	if reason := (*pdu.Reject)(&p.Header).Reason(); reason != pdu.RejectDataDigest || !bytes.Equal(p.Data, of[:]) {
		r.t.Fatalf("Reject with reason %02Xh of\n%x, want\n%x", uint8(reason), p.Data, of[:])
	}
}

// wantCRCError takes the end of a command whose data was damaged.
func (r *rig) wantCRCError(c *initiator.Conn, itt uint32) {
	r.t.Helper()
	res, err := c.Finish(itt)
	key, asc, ascq, _ := initiator.SenseFields(res.Sense)
	if err != nil || res.Status != sam.CheckCondition || key != 0x0b || asc != 0x47 || ascq != 0x05 {
		r.t.Fatalf("%v, sense %x, %v", res.Status, res.Sense, err)
	}
}

// A request is a kind of PDU with data: make builds one, sound takes the answers to one that came whole, damaged those after the
// Reject to one that did not.
type request struct {
	name           string
	make           func(r *rig, c *initiator.Conn) wire
	sound, damaged func(r *rig, c *initiator.Conn, w wire)
}

func nothing(*rig, *initiator.Conn, wire) {}

func crcError(r *rig, c *initiator.Conn, w wire) { r.t.Helper(); r.wantCRCError(c, w.h.ITT()) }

func good(r *rig, c *initiator.Conn, w wire) {
	r.t.Helper()
	res, err := c.Finish(w.h.ITT())
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func answered(op pdu.Opcode) func(*rig, *initiator.Conn, wire) {
	return func(r *rig, c *initiator.Conn, w wire) {
		r.t.Helper()
		if p, err := c.Expect(op); err != nil || p.ITT() != w.h.ITT() && op != pdu.OpReject {
			r.t.Fatal(err)
		}
	}
}

// again sends a request once more that is gone, so that its CmdSN is not missing.
func again(op pdu.Opcode) func(*rig, *initiator.Conn, wire) {
	return func(r *rig, c *initiator.Conn, w wire) {
		r.t.Helper()
		w.send(r, c, w.b)
		answered(op)(r, c, w)
	}
}

// where the writes of these tests go.
const damageLBA = 40

// ping is a NOP-Out with a pad.
func ping(immediate bool) func(*rig, *initiator.Conn) wire {
	return func(r *rig, c *initiator.Conn) wire {
		h := c.Request(pdu.OpNOPOut, immediate)
		h.SetTTT(pdu.NoTag)
		return frame(c, h, nil, []byte("hello"))
	}
}

// writing begins a write of blocks without data and returns its R2T.
func writing(r *rig, c *initiator.Conn, blocks int) (*pdu.Header, *initiator.PDU) {
	r.t.Helper()
	h := c.CommandHeader(lun1, write10(damageLBA, uint16(blocks)), false, true, uint32(blocks*512))
	if err := c.Send(h, nil); err != nil {
		r.t.Fatal(err)
	}
	p, err := c.Expect(pdu.OpR2T)
	if err != nil {
		r.t.Fatal(err)
	}
	return h, p
}

// dataOut is one Data-Out.
func dataOut(c *initiator.Conn, itt, ttt uint32, sn pdu.SN, off int, data []byte, final bool) wire {
	h := new(pdu.Header)
	(*pdu.DataOut)(h).Init(lun1, itt, ttt, sn, uint32(off), len(data), final)
	c.Stamp(h)
	return frame(c, h, nil, data)
}

var requests = []request{
	{"NOP-Out", ping(true), answered(pdu.OpNOPIn), nothing},
	{"NOP-Out in order", ping(false), answered(pdu.OpNOPIn), again(pdu.OpNOPIn)},
	{"Text Request", func(r *rig, c *initiator.Conn) wire {
		h := c.Request(pdu.OpTextReq, false)
		h.SetTTT(pdu.NoTag)
		return frame(c, h, nil, initiator.Keys{{Name: "X-io.lunar.key", Value: "1"}}.Encode())
	}, answered(pdu.OpTextResp), again(pdu.OpTextResp)},
	{"immediate data", func(r *rig, c *initiator.Conn) wire {
		return frame(c, c.CommandHeader(lun1, write10(damageLBA, 1), false, true, 512), nil, pattern(7, 1))
	}, good, crcError},
	{"immediate data with a pad", func(r *rig, c *initiator.Conn) wire {
		// MODE SELECT(6) without pages.
		return frame(c, c.CommandHeader(lun1, []byte{0x15, 0x10, 0, 0, 5, 0}, false, true, 5), nil, make([]byte, 5))
	}, func(r *rig, c *initiator.Conn, w wire) {
		if _, err := c.Finish(w.h.ITT()); err != nil {
			r.t.Fatal(err)
		}
	}, crcError},
	{"immediate data behind an AHS", func(r *rig, c *initiator.Conn) wire {
		return frame(c, c.CommandHeader(lun1, write10(damageLBA, 1), false, true, 512), pdu.AppendExtCDB(nil, make([]byte, 16)), pattern(7, 1))
	}, func(r *rig, c *initiator.Conn, w wire) {
		if res, err := c.Finish(w.h.ITT()); err != nil || res.Status != sam.CheckCondition {
			r.t.Fatal(res.Status, err)
		}
	}, crcError},
	{"solicited Data-Out with a pad", func(r *rig, c *initiator.Conn) wire {
		h, p := writing(r, c, 1)
		w := dataOut(c, h.ITT(), p.TTT(), 1, 201, pattern(7, 1)[201:], true)
		w.lead = dataOut(c, h.ITT(), p.TTT(), 0, 0, pattern(7, 1)[:201], false).b
		return w
	}, good, crcError},
	{"unsolicited Data-Out", func(r *rig, c *initiator.Conn) wire {
		h := c.CommandHeader(lun1, write10(damageLBA, 1), false, true, 512)
		(*pdu.SCSICommand)(h).SetFlags(false, false, true, sam.Simple)
		w := dataOut(c, h.ITT(), pdu.NoTag, 0, 0, pattern(7, 1), true)
		w.lead = frame(c, h, nil, nil).b
		return w
	}, good, crcError},
	{"Data-Out of nobody", func(r *rig, c *initiator.Conn) wire {
		return dataOut(c, 0x7fff1234, 99, 0, 0, pattern(7, 1)[:6], true)
	}, nothing, nothing},
	{"an opcode that is none", func(r *rig, c *initiator.Conn) wire {
		h := c.Request(0x1c, true)
		return frame(c, h, nil, []byte("data"))
	}, answered(pdu.OpReject), nothing},
	{"Task Management Request", func(r *rig, c *initiator.Conn) wire {
		h := c.Request(pdu.OpTaskMgmtReq, true)
		(*pdu.TaskMgmtReq)(h).SetFunction(sam.AbortTaskSet)
		(*pdu.TaskMgmtReq)(h).SetRefTag(pdu.NoTag)
		h.SetLUN(lun1)
		return frame(c, h, nil, nil)
	}, answered(pdu.OpTaskMgmtResp), nothing},
}

// Whatever byte of a PDU is wrong: a damaged header, AHS or header digest costs the connection, since the next PDU could be
// anywhere; damaged data, pad or data digest is rejected, the command that it belongs to ends with an error that initiators
// retry, and the session goes on. Nothing of it is written.
//
// MUST 7143 §7.8: a wrong header digest costs the connection
//
// MUST 7143 §7.8: a PDU with a wrong data digest is answered with Reject, reason data digest error, and discarded
func TestDamage(t *testing.T) {
	for _, pair := range digestPairs[1:] {
		for _, q := range requests {
			t.Run(fmt.Sprintf("%v, %s", pair, q.name), func(t *testing.T) {
				r := newRig(t, Config{}, "")
				watch := r.login(2)
				old := pattern(3, 1)
				r.write(watch, damageLBA, old)
				c := r.rawDigests(1, pair)
				count := r.counters(1)
				w := q.make(r, c)
				w.send(r, c, w.b)
				q.sound(r, c, w)
				r.write(watch, damageLBA, old)
				if pair.data {
					for i := w.head; i < len(w.b); i++ {
						if i > w.head+8 && i < len(w.b)-8 && i%31 != 0 {
							continue
						}
						w := q.make(r, c)
						before := count().DataDigests
						w.send(r, c, w.flipped(i))
						r.wantReject(c, &w.h)
						q.damaged(r, c, w)
						if n := count().DataDigests; n != before+1 {
							t.Fatalf("%d damaged PDUs are counted, %d before", n, before)
						}
						r.attend(c)
						if got := r.read(watch, damageLBA, 1); !bytes.Equal(got, old) {
							t.Fatalf("byte %d: damaged data was written", i)
						}
						if n := r.lent(); n != 0 {
							t.Fatalf("byte %d: %d bytes of buffers are still out", i, n)
						}
					}
				}
				if !pair.header {
					return
				}
				for i := range w.head {
					c.Close()
					c = r.rawDigests(1, pair)
					count := r.counters(1)
					w := q.make(r, c)
					// A length that is wrong may have the target wait for more: there is more.
					more := slices.Concat(slices.Repeat([][]byte{ping(true)(r, c).b}, 24)...)
					r.feed(c, 1, slices.Concat(w.lead, w.flipped(i)), more)
					for {
						p, err := c.Recv()
						if err != nil {
							break
						}
						if p.Opcode() == pdu.OpNOPIn {
							t.Fatalf("byte %d: the connection lives", i)
						}
					}
					if n := count().HeaderDigests; n != 1 {
						t.Fatalf("byte %d: %d wrong header digests are counted", i, n)
					}
					if got := r.read(watch, damageLBA, 1); !bytes.Equal(got, old) {
						t.Fatalf("byte %d: damaged data was written", i)
					}
				}
			})
		}
	}
}

// Wherever a read of the target ends, every PDU is taken as it was sent, and damage is seen.
func TestSplitPDUs(t *testing.T) {
	for _, pair := range digestPairs {
		t.Run(pair.String(), func(t *testing.T) {
			r := newRig(t, Config{}, "")
			c := r.rawDigests(1, pair)
			for split, length := 1, 1<<20; split < length; split++ {
				var stream []byte
				crcErrors, want := map[uint32]bool{}, map[uint32]pdu.Opcode{}
				rejects := 0
				for _, i := range []int{6, 0, 1, 2, 3, 4, 5} { // the one that gets an R2T first comes first
					op := [...]pdu.Opcode{pdu.OpNOPIn, pdu.OpNOPIn, pdu.OpTextResp, pdu.OpSCSIResponse, pdu.OpSCSIResponse, pdu.OpSCSIResponse, pdu.OpSCSIResponse}[i]
					w := requests[i].make(r, c)
					want[w.h.ITT()] = op
					b := w.b
					if pair.data && split%3 == 0 && (w.h.Immediate() || op == pdu.OpSCSIResponse) { // what leaves no gap
						b = w.flipped(len(b) - 1 - split%4)
						rejects++
						delete(want, w.h.ITT())
						if op == pdu.OpSCSIResponse {
							want[w.h.ITT()] = op
							crcErrors[w.h.ITT()] = true
						}
					}
					stream = append(append(stream, w.lead...), b...)
				}
				length = len(stream)
				r.feed(c, 1, stream[:split], stream[split:])
				for len(want) != 0 || rejects != 0 {
					p, err := c.Recv()
					if err != nil {
						t.Fatalf("split at %d, waiting for %v: %v", split, want, err)
					}
					if p.Opcode() == pdu.OpReject && (*pdu.Reject)(&p.Header).Reason() == pdu.RejectDataDigest {
						rejects--
						continue
					}
					if want[p.ITT()] != p.Opcode() {
						t.Fatalf("split at %d: %s", split, pdu.Describe(&p.Header, nil, p.Data))
					}
					delete(want, p.ITT())
					if crcErrors[p.ITT()] != (p.Opcode() == pdu.OpSCSIResponse && bytes.Contains(p.Data, []byte{0x47, 0x05})) {
						t.Fatalf("split at %d: %s", split, pdu.Describe(&p.Header, nil, p.Data))
					}
				}
			}
		})
	}
}

// large are PDUs with data segments that are received straight into their places, with pads of every length.
var large = []request{
	{"immediate", func(r *rig, c *initiator.Conn) wire {
		return frame(c, c.CommandHeader(lun1, write10(damageLBA, 64), false, true, 32<<10), nil, pattern(7, 64))
	}, good, crcError},
	{"unsolicited", func(r *rig, c *initiator.Conn) wire {
		h := c.CommandHeader(lun1, write10(damageLBA, 64), false, true, 32<<10)
		(*pdu.SCSICommand)(h).SetFlags(false, false, true, sam.Simple)
		data := pattern(7, 64)
		w := dataOut(c, h.ITT(), pdu.NoTag, 0, 9000, data[9000:], true)
		w.lead = frame(c, h, nil, data[:9000]).b
		return w
	}, good, crcError},
	solicited(16385), solicited(16386), solicited(16387), solicited(16388),
	{"nobody's", func(r *rig, c *initiator.Conn) wire {
		return dataOut(c, 0x7fff1234, 99, 0, 0, pattern(7, 64)[:20001], true)
	}, nothing, nothing},
}

// solicited is the first n bytes that an R2T asks for; the rest follows.
func solicited(n int) request {
	rest := func(r *rig, c *initiator.Conn, w wire, data []byte) {
		r.t.Helper()
		if err := c.SendBytes(dataOut(c, w.h.ITT(), w.h.TTT(), 1, n, data[n:], true).b); err != nil {
			r.t.Fatal(err)
		}
	}
	return request{fmt.Sprintf("solicited, %d bytes", n), func(r *rig, c *initiator.Conn) wire {
		h, p := writing(r, c, 64)
		return dataOut(c, h.ITT(), p.TTT(), 0, 0, pattern(7, 64)[:n], false)
	}, func(r *rig, c *initiator.Conn, w wire) {
		r.t.Helper()
		rest(r, c, w, pattern(7, 64))
		good(r, c, w)
	}, func(r *rig, c *initiator.Conn, w wire) {
		r.t.Helper()
		rest(r, c, w, pattern(7, 64))
		r.wantCRCError(c, w.h.ITT())
	}}
}

// The same for PDUs that are received straight into their places, with reads that end anywhere in them.
//
// MUST 7143 §7.8: a command whose data was damaged is ended only when all its data has come
func TestLargeDamage(t *testing.T) {
	for _, pair := range digestPairs {
		for _, rules := range []string{"", "any pending"} {
			if rules != "" && pair != (digestPair{true, true}) {
				continue
			}
			for _, q := range large {
				t.Run(fmt.Sprintf("%v, %s %s", pair, q.name, rules), func(t *testing.T) {
					r := newRig(t, Config{}, rules)
					watch := r.login(2)
					old, data := pattern(3, 64), pattern(7, 64)
					c := r.rawDigests(1, pair)
					length := len(q.make(r, c).b) // made once more for each turn
					c.Close()
					c = r.rawDigests(1, pair)
					for _, at := range []int{1, 47, 48, 51, 52, 53, 60, 5000, 16384, length - 9, length - 8, length - 7, length - 6, length - 5, length - 4, length - 3, length - 2, length - 1} {
						r.write(watch, damageLBA, old)
						w := q.make(r, c)
						r.feed(c, 1, slices.Concat(w.lead, w.b[:at]), w.b[at:])
						q.sound(r, c, w)
						r.attend(c)
						if got := r.read(watch, damageLBA, 64); !bytes.Equal(got, data) && q.name != "nobody's" {
							t.Fatalf("split at %d: other data was written", at)
						}
						if !pair.data || at < w.head {
							continue
						}
						r.write(watch, damageLBA, old)
						w = q.make(r, c)
						bad := w.flipped(at)
						r.feed(c, 1, slices.Concat(w.lead, bad[:1]), bad[1:at], bad[at:])
						r.wantReject(c, &w.h)
						q.damaged(r, c, w)
						r.attend(c)
						if got := r.read(watch, damageLBA, 64); !bytes.Equal(got, old) {
							t.Fatalf("byte %d: damaged data was written", at)
						}
						if n := r.lent(); n != 0 {
							t.Fatalf("byte %d: %d bytes of buffers are still out", at, n)
						}
					}
				})
			}
		}
	}
}

// Data that there is no memory for is read and dropped; its digest is looked at all the same, though others use that memory between
// two reads.
func TestDamageOverBudget(t *testing.T) {
	r := newRig(t, Config{BufferBytes: 16 << 10}, "")
	both := digestPair{true, true}
	c, other := r.rawDigests(1, both), r.rawDigests(2, both)
	q := large[0]
	for _, damaged := range []bool{false, true} {
		w, o := q.make(r, c), q.make(r, other)
		b := w.b
		if damaged {
			b = w.flipped(9000)
		}
		r.feed(c, 1, b[:8000])
		r.feed(other, 2, o.b[:10000])
		r.feed(c, 1, b[8000:20000])
		r.feed(other, 2, o.b[10000:])
		r.feed(c, 1, b[20000:])
		full := []*initiator.Conn{other, c}
		if damaged {
			r.wantReject(c, &w.h)
			r.wantCRCError(c, w.h.ITT())
			full = full[:1]
		}
		for i, c := range full {
			itt := []uint32{o.h.ITT(), w.h.ITT()}[i]
			if res, err := c.Finish(itt); err != nil || res.Status != sam.TaskSetFull {
				t.Fatalf("%v, %v; want TASK SET FULL", res.Status, err)
			}
		}
	}
}
