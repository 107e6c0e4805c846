package target

import (
	"fmt"
	"math/bits"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// What is counted of commands. A command is counted where it begins and where it ends, in plain numbers that belong to the loop: at the
// nexus that it came by (sess), which is most of it, and at the LUN of the target (lunCounters). Nothing is counted twice: what a
// LUN has in all is what its sessions have and what those that are no more have left it.

// A commandKind says what a command is counted as.
type commandKind uint8

const (
	otherKind commandKind = iota
	readKind
	writeKind
)

// kinds are those of the operation codes: by the code and not by what Prepare makes of the command, so that one that fails before it
// is looked at is counted as what the initiator meant.
var kinds = [256]commandKind{
	cdb.Read6: readKind, cdb.Read10: readKind, cdb.Read12: readKind, cdb.Read16: readKind,
	cdb.Write6: writeKind, cdb.Write10: writeKind, cdb.Write12: writeKind, cdb.Write16: writeKind,
	cdb.WriteVerify10: writeKind, cdb.WriteVerify12: writeKind, cdb.WriteVerify16: writeKind,
	cdb.WriteSame10: writeKind, cdb.WriteSame16: writeKind, cdb.CompareAndWrite: writeKind, cdb.OrWrite16: writeKind,
}

// maxErrorKinds bounds the kinds of error that are counted apart at one LUN: what an initiator can bring about is a few dozen.
const maxErrorKinds = 64

// otherErrors is the name of those beyond.
const otherErrors = "other"

// An errorKind is a status other than GOOD and, with CHECK CONDITION, what the sense data says.
type errorKind struct {
	status sam.Status
	key    sense.Key
	code   sense.Code
	failed bool // no status at all: target failure
}

func (k errorKind) String() string {
	switch {
	case k.failed:
		return "TARGET FAILURE"
	case k.status == sam.CheckCondition:
		return fmt.Sprintf("%x/%02x/%02x", uint8(k.key), k.code.ASC(), k.code.ASCQ())
	}
	return k.status.String()
}

// lunCounters are what is counted at one LUN of a target. They belong to the loop.
type lunCounters struct {
	unit        *unit    // whose: another unit at the same number begins anew
	past        LUNStats // of sessions that are no more
	errors      map[errorKind]uint64
	moreErrors  uint64 // of kinds beyond maxErrorKinds
	read, write Histogram
	turn        struct{ reads, writes uint64 } // that have begun and ended within this turn
	timed       bool                           // in loop.timed
}

// countersOf returns the counters of one row of the LUN map.
func (t *Target) countersOf(num uint16, u *unit) *lunCounters {
	c := t.counts[num]
	if c == nil || c.unit != u {
		c = &lunCounters{unit: u}
		t.counts[num] = c
	}
	return c
}

// forgetCounters drops the counters of LUNs that are no more, and the units that they refer to.
func (t *Target) forgetCounters() {
	for num, c := range t.counts {
		if i, there := t.find(num); !there || t.luns[i].unit != c.unit {
			delete(t.counts, num)
		}
	}
}

// commandBegun counts a command whose turn it is.
func (l *loop) commandBegun(r *record) {
	r.began = l.ev.Now()
	t, s := r.task, r.ln.stats
	n := uint64(t.EDTL)
	switch r.kind = kinds[t.CDB[0]]; r.kind {
	case readKind:
		s.ReadsBegun++
		s.ReadBytesBegun += n
	case writeKind:
		s.WritesBegun++
		s.WriteBytesBegun += n
	default:
		s.OthersBegun++
		switch {
		case t.Read:
			s.OtherIn.Begun++
			s.OtherIn.BytesBegun += n
		case t.Write:
			s.OtherOut.Begun++
			s.OtherOut.BytesBegun += n
		}
	}
}

// commandEnded counts a command's end with res.
func (l *loop) commandEnded(r *record, res *session.Result) {
	t, s := r.task, r.ln.stats
	bad := res.Status != sam.Good || res.Failed || t.Damaged()
	if bad {
		s.Errors++
		r.ln.count.error(r.errorKind(res))
	}
	n := uint64(t.EDTL)
	switch r.kind {
	case readKind:
		if bad {
			s.ReadsFailed++
			s.ReadBytesFailed += n
		} else {
			s.Reads++
			s.ReadBytes += min(n, uint64(len(res.Data)))
		}
		l.timeRead(r)
	case writeKind:
		if bad {
			s.WritesFailed++
			s.WriteBytesFailed += n
		} else {
			s.Writes++
			s.WriteBytes += min(n, uint64(r.cmd.Length))
		}
		l.timeWrite(r)
	default:
		s.otherEnded(t)
	}
}

func (r *record) errorKind(res *session.Result) errorKind {
	k := errorKind{status: res.Status, failed: res.Failed}
	b := res.Sense
	if r.task.Damaged() {
		k.status, b = sam.CheckCondition, session.DamagedSense()
	}
	if k.status == sam.CheckCondition {
		if d, err := sense.Parse(b); err == nil {
			k.key, k.code = d.Key, d.Code
		}
	}
	return k
}

// commandAborted counts the end of a command that is not answered, or TASK ABORTED.
func (l *loop) commandAborted(r *record) {
	t, s := r.task, r.ln.stats
	s.Errors++
	r.ln.count.error(errorKind{status: sam.TaskAborted})
	switch n := uint64(t.EDTL); r.kind {
	case readKind:
		s.ReadsFailed++
		s.ReadBytesFailed += n
		l.timeRead(r)
	case writeKind:
		s.WritesFailed++
		s.WriteBytesFailed += n
		l.timeWrite(r)
	default:
		s.otherEnded(t)
	}
}

// commandRefused counts a command that the session has refused, of which the loop sees the answer alone.
func (l *loop) commandRefused(a *session.Action) {
	ln := a.Conn.Ref.(*conn).se.lookup(a.LUN)
	ln.stats.OthersBegun++
	ln.stats.Others++
	ln.stats.Errors++
	k := errorKind{status: sam.CheckCondition}
	if len(a.Data) > 2 {
		if d, err := sense.Parse(a.Data[2:]); err == nil {
			k.key, k.code = d.Key, d.Code
		}
	}
	ln.count.error(k)
}

func (s *LUNStats) otherEnded(t *session.Task) {
	s.Others++
	switch n := uint64(t.EDTL); {
	case t.Read:
		s.OtherIn.Ended++
		s.OtherIn.Bytes += n
	case t.Write:
		s.OtherOut.Ended++
		s.OtherOut.Bytes += n
	}
}

func (c *lunCounters) error(k errorKind) {
	if n, known := c.errors[k]; known {
		c.errors[k] = n + 1
		return
	}
	switch {
	case c.errors == nil:
		c.errors = map[errorKind]uint64{k: 1}
	case len(c.errors) >= maxErrorKinds:
		c.moreErrors++
	default:
		c.errors[k] = 1
	}
}

// timeRead notes how long r has taken. What began in this very turn is noted at its end, all at once and with one look at the
// clock: a turn takes no longer than its batch, and no command pays for a clock of its own.
func (l *loop) timeRead(r *record) {
	c := r.ln.count
	if d := l.ev.Now() - r.began; d != 0 {
		c.read.add(d, 1)
		return
	}
	c.turn.reads++
	l.timeTurn(c)
}

func (l *loop) timeWrite(r *record) {
	c := r.ln.count
	if d := l.ev.Now() - r.began; d != 0 {
		c.write.add(d, 1)
		return
	}
	c.turn.writes++
	l.timeTurn(c)
}

func (l *loop) timeTurn(c *lunCounters) {
	if !c.timed {
		c.timed = true
		l.timed = append(l.timed, c)
	}
}

// endTimes notes the times of what began and ended in the turn that ends.
func (l *loop) endTimes() {
	d := l.s.group.Clock() - l.ev.Now()
	for i, c := range l.timed {
		c.read.add(d, c.turn.reads)
		c.write.add(d, c.turn.writes)
		c.turn.reads, c.turn.writes, c.timed = 0, 0, false
		l.timed[i] = nil
	}
	l.timed = l.timed[:0]
}

// add counts n commands of d ns each.
func (h *Histogram) add(d int64, n uint64) {
	i := bits.Len64(uint64(max(d, 1)-1) / uint64(HistogramBound(0)))
	h.Counts[min(i, HistogramBuckets-1)] += n
	h.Sum += time.Duration(d) * time.Duration(n)
}

// Count is how many commands there are in all buckets.
func (h *Histogram) Count() (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// countRx counts a whole PDU that has come.
func (c *conn) countRx(h *pdu.Header) {
	switch h.Opcode() {
	case pdu.OpSCSICommand:
		c.count.Commands++
		c.count.RxData += uint64(h.DataLen())
	case pdu.OpDataOut:
		c.count.DataOut++
		c.count.RxData += uint64(h.DataLen())
	}
}

// countTx counts a PDU with n bytes of data that takes its place in the stream.
func (c *conn) countTx(h *pdu.Header, n int) {
	switch h.Opcode() {
	case pdu.OpDataIn:
		c.count.DataIn++
		c.count.TxData += uint64(n)
		if (*pdu.DataIn)(h).HasStatus() {
			c.count.Responses++
		}
	case pdu.OpSCSIResponse:
		c.count.Responses++
	}
}

// Add adds o's counts to s's; the LUN stays s's.
func (s *LUNStats) Add(o *LUNStats) {
	s.ReadsBegun += o.ReadsBegun
	s.ReadBytesBegun += o.ReadBytesBegun
	s.Reads += o.Reads
	s.ReadBytes += o.ReadBytes
	s.ReadsFailed += o.ReadsFailed
	s.ReadBytesFailed += o.ReadBytesFailed
	s.WritesBegun += o.WritesBegun
	s.WriteBytesBegun += o.WriteBytesBegun
	s.Writes += o.Writes
	s.WriteBytes += o.WriteBytes
	s.WritesFailed += o.WritesFailed
	s.WriteBytesFailed += o.WriteBytesFailed
	s.OthersBegun += o.OthersBegun
	s.Others += o.Others
	s.Errors += o.Errors
	s.OtherIn.add(&o.OtherIn)
	s.OtherOut.add(&o.OtherOut)
}

func (f *Flow) add(o *Flow) {
	f.Begun += o.Begun
	f.BytesBegun += o.BytesBegun
	f.Ended += o.Ended
	f.Bytes += o.Bytes
}

// Directions are the commands as tgtd counts them: whatever has Data-In, and whatever has Data-Out, by what the initiator means to
// transfer, and ended however it ended.
func (s *LUNStats) Directions() (in, out Flow) {
	in, out = s.OtherIn, s.OtherOut
	in.add(&Flow{s.ReadsBegun, s.ReadBytesBegun, s.Reads + s.ReadsFailed, s.ReadBytes + s.ReadBytesFailed})
	out.add(&Flow{s.WritesBegun, s.WriteBytesBegun, s.Writes + s.WritesFailed, s.WriteBytes + s.WriteBytesFailed})
	return in, out
}

// settle counts commands that have not ended as failed: their session has, and a fault may have lost them.
func (s *LUNStats) settle() {
	s.ReadsFailed = s.ReadsBegun - s.Reads
	s.WritesFailed = s.WritesBegun - s.Writes
	s.Others = s.OthersBegun
}

// Queued is how many commands have begun and not ended.
func (s *LUNStats) Queued() int {
	return int(s.ReadsBegun - s.Reads - s.ReadsFailed + s.WritesBegun - s.Writes - s.WritesFailed + s.OthersBegun - s.Others)
}
