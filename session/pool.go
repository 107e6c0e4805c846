package session

import (
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A taskState is where a task stands.
type taskState uint8

const (
	taskBegun      taskState = iota // the caller is checking it
	taskCollecting                  // its Data-Out is coming
	taskExecuting                   // the caller performs it
	taskDraining                    // its result is known; the last of its Data-Out is awaited
	taskGone                        // answered or aborted
)

// MaxCDB is the longest CDB that is taken: 16 bytes of the header and what an extended CDB
// segment adds (SPC-4 knows 260 bytes; nothing that lunar serves needs more than 16).
const MaxCDB = 16

// A Task is one SCSI command of a session. Tasks are pooled; Ref is the caller's own record and stays with the
// Task when it is reused.
type Task struct {
	Ref any // the caller's, kept across reuse

	Conn      *Conn // allegiance (RFC 7143 §4.2.2.1)
	ITT       uint32
	LUN       sam.LUN
	Attr      sam.TaskAttribute
	Immediate bool
	Read      bool   // R bit
	Write     bool   // W bit
	EDTL      uint32 // bytes
	CDB       [MaxCDB]byte

	// Buf is where Data-Out is collected: given by the caller to Begun, as long as what the command needs.
	Buf []byte

	state    taskState
	held     bool // in Session.tasks
	counted  bool // in Session.outstanding or Session.immediate
	result   Result
	cmdSN    pdu.SN
	heard    int64  // when the command, or last any of its Data-Out, came
	damaged  bool   // data of it came with a wrong digest
	refused  bool   // by the session: the caller has never seen it
	unsol    bool   // unsolicited Data-Out is still coming
	unsolSN  pdu.SN // DataSN expected in it
	got      uint32 // bytes collected without a gap from 0 (immediate and unsolicited)
	solicit  uint32 // bytes received or asked for
	done     uint32 // bytes collected in all
	dataSN   pdu.SN // DataSN of the next Data-In, R2TSN of the next R2T: one space (RFC 7143 §11.8.2)
	r2ts     [DefaultMaxR2T]r2t
	r2tCount int

	next   *Task // in Pool.free
	pooled bool  // is there
}

// An r2t is one Ready To Transfer that has not been answered in full.
type r2t struct {
	ttt      uint32
	off, end uint32 // next byte expected, end of what was asked for
	sn       pdu.SN // DataSN expected
}

// Gone reports whether the task has been answered or aborted: nothing of it may be sent any more.
func (t *Task) Gone() bool { return t.state == taskGone }

// Damaged reports whether data of the command came with a wrong digest: whatever its result, it ends with DamagedSense.
func (t *Task) Damaged() bool { return t.damaged }

// OutLen returns the bytes of Data-Out that the initiator means to send.
func (t *Task) OutLen() uint32 {
	if t.Write {
		return t.EDTL
	}
	return 0
}

// A Pool keeps Tasks for reuse. It belongs to one loop.
type Pool struct {
	free *Task
	n    int
	// NewRef makes the caller's record for a new Task; it may be nil.
	NewRef func(*Task) any
	// ClearRef is told of every Task that comes back, also from the session; it may be nil.
	ClearRef func(ref any)
}

// maxFree bounds the tasks that a pool keeps: beyond that they go to the collector.
const maxFree = 4096

// Get returns a cleared Task.
func (p *Pool) Get() *Task {
	t := p.free
	if t == nil {
		t = &Task{}
		if p.NewRef != nil {
			t.Ref = p.NewRef(t)
		}
		return t
	}
	p.free, t.next, t.pooled = t.next, nil, false
	p.n--
	return t
}

// Put takes back a task that nothing uses any more. Putting it back twice panics.
func (p *Pool) Put(t *Task) {
	if t.pooled {
		panic("session: Put of a task that is in the pool")
	}
	if p.ClearRef != nil {
		p.ClearRef(t.Ref)
	}
	t.Conn, t.Buf, t.result, t.state, t.pooled = nil, nil, Result{}, taskGone, true
	if p.n >= maxFree {
		return
	}
	t.next, p.free = p.free, t
	p.n++
}
