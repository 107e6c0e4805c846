package session

import (
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// An executor is the other side of a session: it performs what the session asks for as package target does, at once or later as the fuzz
// input says, and checks what must hold whatever comes in.
type executor struct {
	*testing.T
	in   []byte // the rest of the fuzz input
	s    *Session
	c    *Conn
	pool Pool
	now  int64
	over bool // the connection is gone

	made    int // tasks that the pool made
	jobs    map[*Task]*job
	pending []*job // in the order in which they began
	waiting []*TMF // TMFDone is still to come
	next    pdu.SN // CmdSN of the next request in order
	statSN  pdu.SN
	window  struct{ exp, max pdu.SN }
	stamped bool
	r2ts    []asked
	text    struct{ itt, ttt uint32 }
	ping    uint32 // the TTT of the last NOP-In that asked for an answer
	answers uint64
	told    uint64         // tasks that were aborted and answered TASK ABORTED: both are counted
	tmfs    map[uint32]int // by ITT, one for each: 1 until it is answered
}

// A job is a command as the executor knows it.
type job struct {
	t       *Task
	want    uint32
	data    []byte
	aborted bool
	running bool
	reads   uint32 // Data-In bytes sent
	tmf     *TMF
}

// An asked is an R2T that was sent.
type asked struct {
	itt, ttt, off, n uint32
	sn               pdu.SN
	lun              sam.LUN
}

const fuzzWindow = 8

// u8, u16 and u32 take numbers off the input; 0 at its end.
func (x *executor) u8() (v byte) {
	if len(x.in) != 0 {
		v, x.in = x.in[0], x.in[1:]
	}
	return v
}
func (x *executor) u16() uint16 { return uint16(x.u8())<<8 | uint16(x.u8()) }
func (x *executor) u32() uint32 { return uint32(x.u16())<<16 | uint32(x.u16()) }

// size is a length or offset: mostly of those at which something changes.
func (x *executor) size() uint32 {
	k := x.u8()
	list := []uint32{0, 1, 3, 4, 48, 511, 512, 1024, 2048, 4095, 4096, 4097, 8192, 12288, 16384, 1<<32 - 1}
	if k < 0xf0 {
		return list[k%16]
	}
	return x.u32()
}

func (x *executor) open() {
	p := login.Defaults().Params
	flags := x.u8()
	p.InitialR2T, p.ImmediateData = flags&1 != 0, flags&2 != 0
	p.FirstBurstLength = []uint32{512, 2048, 4096, 8192}[flags>>2&3]
	p.MaxBurstLength = max(p.FirstBurstLength, []uint32{512, 4096, 8192, 16384}[flags>>4&3])
	p.MaxRecvDataSegmentLength, p.MaxXmitDataSegmentLength = 4096, []uint32{512, 4096}[flags>>6&1]
	p.MaxOutstandingR2T = uint16(1 + flags>>7*3)
	typ := login.Normal
	start := x.u8()
	if start&0x0f == 0x0f {
		typ = login.Discovery
	}
	x.next = pdu.SN(start) - 8 // numbers wrap
	x.pool.NewRef = func(t *Task) any { x.made++; return t }
	x.pool.ClearRef = func(t any) { delete(x.jobs, t.(*Task)) } // the session puts back those that it kept
	lim := Limits{Window: fuzzWindow, Immediate: 3, HeldBytes: 16 << 10, TextBytes: 1 << 10, NOPInterval: 60e9}
	x.s = New(sam.Nexus{}, 1, typ, p, x.next, lim, &x.pool)
	x.statSN = pdu.SN(1<<32 - 3)
	x.c = x.s.AddConn(0, x.statSN, 0)
	x.jobs, x.tmfs = map[*Task]*job{}, map[uint32]int{}
	x.text.ttt = pdu.NoTag
}

// perform does what the session asks for, in order.
func (x *executor) perform(acts []Action) {
	for i := 0; i < len(acts); i++ {
		a := acts[i]
		switch a.Kind {
		case Begin:
			acts = x.begin(a, acts)
		case Execute:
			j := x.jobs[a.Task]
			x.arrived(a.Task, a.Task.Buf)
			acts = x.run(j, acts)
		case DataFault:
			acts = x.end(x.jobs[a.Task], DataFaultResult(), acts)
		case Send, SendUrgent, SendData:
			x.sent(&a)
		case Abort:
			acts = x.abort(a.Task, a.TMF, acts)
		case AbortSet, ClearSet, ResetLU, ResetTarget, ResetNexus:
			all := a.Kind == ResetTarget || a.Kind == ResetNexus
			acts = x.abortAll(x.s.AbortTasks(a.TMF, false, func(t *Task) bool { return all || t.LUN == a.LUN }, nil), acts)
			if x.u8()&1 != 0 {
				x.waiting = append(x.waiting, a.TMF)
			} else {
				acts = x.s.TMFDone(a.TMF, x.u8()&1 == 0, acts)
			}
		case Query:
			acts = x.s.TMFQueried(a.TMF, x.u8()&1 == 0, 0x062900, int(x.u8()&1), acts)
		case Next:
			acts = x.s.Next(x.now, acts)
		case SendTargets:
			if x.u8()&1 != 0 {
				acts = x.s.TextRefuse(acts)
			} else {
				acts = x.s.TextReply(make([]byte, x.u16()%2000), acts)
			}
		case Close, Drop, PowerCycle:
			if a.Kind == Drop && a.Why == NoReason {
				x.Fatalf("dropped without a reason: %s", a.Name)
			}
			x.lose()
		default:
			x.Fatalf("action %d", a.Kind)
		}
	}
	if at := x.s.NextTick(); at != 0 && at <= x.now && !x.over {
		x.perform(x.s.Tick(x.now, nil))
		if at := x.s.NextTick(); at != 0 && at <= x.now && !x.over {
			x.Fatalf("at %d a tick is wanted at %d, again and again", x.now, at)
		}
	}
}

func dataAt(off uint32) byte { return byte(off*7 + off>>8 + 1) }

func patterned(off, n uint32) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = dataAt(off + uint32(i))
	}
	return b
}

func (x *executor) begin(a Action, acts []Action) []Action {
	t := a.Task
	if x.jobs[t] != nil {
		x.Fatalf("task %x begins twice", t.ITT)
	}
	j := &job{t: t}
	x.jobs[t] = j
	how := x.u8()
	if how%4 == 0 {
		return x.end(j, Result{Status: sam.CheckCondition, Sense: make([]byte, 18)}, acts)
	}
	if t.Write {
		j.want = min(x.size(), t.OutLen(), 16384)
		if !x.s.Begun(t, j.want) {
			if how%4 == 1 {
				return x.end(j, Result{Status: sam.TaskSetFull}, acts)
			}
			return x.s.Collect(t, make([]byte, j.want), a.Data, acts)
		}
		if uint32(len(a.Data)) < j.want {
			x.Fatalf("task %x: %d bytes are said to be here, and %d are", t.ITT, j.want, len(a.Data))
		}
		x.arrived(t, a.Data[:j.want])
	} else if t.Read {
		j.data = make([]byte, min(x.size(), 16384))
	}
	return x.run(j, acts)
}

// run performs a command that has its data, now or later.
func (x *executor) run(j *job, acts []Action) []Action {
	if x.u8()&1 != 0 {
		j.running = true
		x.pending = append(x.pending, j)
		x.s.Executing(j.t)
		return acts
	}
	return x.end(j, j.result(x), acts)
}

func (j *job) result(x *executor) Result {
	switch x.u8() % 8 {
	case 0:
		return Result{Status: sam.CheckCondition, Sense: make([]byte, 18)}
	case 1:
		return Result{Failed: true}
	}
	return Result{Status: sam.Good, Data: j.data, Moved: j.want}
}

func (x *executor) end(j *job, r Result, acts []Action) []Action {
	if j == nil {
		x.Fatal("an action for a task that never began")
	}
	from := len(acts)
	acts = x.s.Completed(j.t, r, acts)
	for i := from; i < len(acts); i++ {
		x.sent(&acts[i]) // as target does, since the data lies in the command
	}
	acts = acts[:from]
	if !j.t.Held() {
		x.pool.Put(j.t)
	}
	return acts
}

// abortAll performs what AbortTasks asks for.
func (x *executor) abortAll(aborts, acts []Action) []Action {
	for i := range aborts {
		if a := &aborts[i]; a.Kind == Abort {
			acts = x.abort(a.Task, a.TMF, acts)
		} else {
			x.sent(a)
		}
	}
	return acts
}

func (x *executor) abort(t *Task, m *TMF, acts []Action) []Action {
	j := x.jobs[t]
	if j == nil || j.aborted {
		x.Fatalf("task %x is aborted and is not there", t.ITT)
	}
	j.aborted = true
	if j.running {
		if m == nil || x.u8()&1 == 0 {
			if m != nil {
				acts = m.Settled(acts)
			}
			return acts
		}
		j.tmf = m
		return acts
	}
	x.pool.Put(t)
	if m != nil {
		acts = m.Settled(acts)
	}
	return acts
}

// finish ends a command that was pending.
func (x *executor) finish() {
	if len(x.pending) == 0 {
		return
	}
	i := int(x.u8()) % len(x.pending)
	j := x.pending[i]
	x.pending = append(x.pending[:i:i], x.pending[i+1:]...)
	j.running = false
	if !j.aborted {
		x.perform(x.end(j, j.result(x), nil))
		return
	}
	x.pool.Put(j.t)
	if j.tmf != nil {
		x.perform(j.tmf.Settled(nil))
	}
}

// lose ends the connection and with it the session: nothing of it may be left.
func (x *executor) lose() {
	if x.over {
		return
	}
	x.over = true
	acts, last := x.s.ConnLost(x.c, nil)
	if !last {
		x.Fatal("a session without connections goes on")
	}
	for _, a := range acts {
		if a.Kind == Abort {
			acts = x.abort(a.Task, a.TMF, nil)
			if len(acts) != 0 {
				x.Fatal("something is asked for of a session that has ended")
			}
		}
	}
}

// check says whether everything was given back.
func (x *executor) check() {
	x.lose()
	for len(x.pending) != 0 {
		x.finish()
	}
	for _, m := range x.waiting {
		if acts := x.s.TMFDone(m, true, nil); len(acts) != 0 {
			x.Fatal("an answer after the end")
		}
	}
	s := x.s
	for sn, p := range s.held {
		if p.conn == nil {
			delete(s.held, sn) // a number that counts as received, for the next connection
		}
	}
	if len(s.tasks) != 0 || s.outstanding != 0 || s.immediate != 0 || s.immediateTM != 0 || len(s.tmfs) != 0 || len(s.held) != 0 || s.heldBytes != 0 || s.Kept() != 0 {
		x.Fatalf("left: %d tasks, %d+%d outstanding, %d functions, %d held of %d bytes, %d kept", len(s.tasks), s.outstanding, s.immediate, len(s.tmfs), len(s.held), s.heldBytes, s.Kept())
	}
	if x.pool.n != x.made {
		x.Fatalf("%d tasks were made, %d came back", x.made, x.pool.n)
	}
	if n := &s.Counters; n.Commands+x.told != n.Responses+n.Aborted || n.Responses != x.answers {
		x.Fatalf("%d answers; counted: %+v", x.answers, *n)
	}
}

// FuzzSession has a session take whatever PDUs come, in whatever order, and ends commands, functions and time as the input says.
func FuzzSession(f *testing.F) {
	for _, seed := range sessionSeeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		x := &executor{T: t, in: in}
		x.open()
		for len(x.in) != 0 && !x.over {
			x.step()
			x.counted()
		}
		x.check()
	})
}

// step does one thing.
func (x *executor) step() {
	switch op := x.u8(); op % 16 {
	case 0, 1, 2, 3:
		x.command()
	case 4, 5, 6:
		x.dataOut()
	case 7:
		x.finish()
	case 8:
		x.now += int64(x.u8()) * 1e9
		x.perform(x.s.Tick(x.now, nil))
	case 9:
		x.function()
	case 10:
		var h pdu.Header
		n := min(x.size(), 4096)
		ttt := pdu.NoTag
		itt := x.u8()
		if itt&1 != 0 {
			ttt = x.ping
		}
		(*pdu.NOPOut)(&h).Init(0, uint32(int8(itt)), ttt, false, int(n))
		x.receive(&h, nil, make([]byte, n))
	case 11:
		x.textReq()
	case 12:
		if len(x.waiting) != 0 {
			m := x.waiting[0]
			x.waiting = x.waiting[1:]
			x.perform(x.s.TMFDone(m, x.u8()&1 == 0, nil))
		} else {
			tell := x.u8()&1 != 0 // TASK ABORTED, as for another nexus
			aborts := x.s.AbortTasks(nil, tell, func(t *Task) bool { return t.ITT&1 != 0 }, nil)
			for i := range aborts {
				if tell && aborts[i].Kind == Abort {
					x.told++
				}
			}
			x.perform(x.s.ShowWindow(x.abortAll(aborts, nil)))
		}
	case 13:
		var h pdu.Header
		h[0], h[1] = byte(pdu.OpLogoutReq), 0x80|x.u8()&3
		h.SetITT(uint32(x.u8()))
		x.receive(&h, nil, nil)
	case 14:
		x.perform(x.s.AskLogout(x.now, nil))
	default: // anything at all
		var h pdu.Header
		x.in = x.in[copy(h[:], x.in):]
		h[4], h[5], h[6] = h[4]&1, 0, h[6]&0x0f
		off := uint32(0)
		switch h.Opcode() {
		case pdu.OpTaskMgmtReq:
			x.asks(&h)
		case pdu.OpDataOut:
			off = (*pdu.DataOut)(&h).Offset()
		}
		x.deliver(&h, make([]byte, h.AHSLen()), patterned(off, uint32(h.DataLen())))
	}
}

// receive numbers a request as the input says and has the session take it.
func (x *executor) receive(h *pdu.Header, ahs, data []byte) {
	k := x.u8()
	switch {
	case k < 0xa0:
		h.SetCmdSN(x.next)
		x.next++
	case k < 0xc0: // immediate
		h[0] |= 0x40
		h.SetCmdSN(x.next)
	case k < 0xf0: // ahead of a gap, which the next ones fill; or again
		h.SetCmdSN(x.next + pdu.SN(k&7))
	default:
		h.SetCmdSN(pdu.SN(x.u32()))
	}
	x.deliver(h, ahs, data)
}

func (x *executor) deliver(h *pdu.Header, ahs, data []byte) {
	h[4] = byte(len(ahs) / 4)
	h.SetDataLen(len(data))
	if x.c.CheckHeader(h) != nil {
		return
	}
	if dst, _, _ := x.s.Place(x.c, h); dst != nil {
		data = dst[:copy(dst, data)] // received straight into its place
	}
	x.perform(x.s.Received(x.c, x.now, h, ahs, data, nil))
	if x.s.exp != x.next && x.next.Before(x.s.exp) {
		x.next = x.s.exp
	}
}

func (x *executor) command() {
	var h pdu.Header
	c := (*pdu.SCSICommand)(&h)
	h[0] = byte(pdu.OpSCSICommand)
	k := x.u8()
	c.SetFlags(k&1 == 0, k&2 != 0, k&4 != 0, sam.TaskAttribute(k>>5))
	h.SetLUN(sam.LUN(k >> 3 & 1))
	h.SetITT(uint32(x.u8() % 12))
	c.SetEDTL(x.size())
	n := uint32(0)
	if k&4 != 0 && k&0x10 != 0 {
		n = min(x.size(), 4096)
	}
	var ahs []byte
	if k == 0xff {
		ahs = make([]byte, 4)
	}
	x.receive(&h, ahs, patterned(0, n))
}

// dataOut answers an R2T, more or less.
func (x *executor) dataOut() {
	var h pdu.Header
	d := (*pdu.DataOut)(&h)
	k := x.u8()
	if len(x.r2ts) == 0 || k&0xc0 == 0xc0 { // unsolicited, of any task
		off := x.size()
		n := min(x.size(), 4096)
		d.Init(0, uint32(x.u8()%12), pdu.NoTag, pdu.SN(x.u8()%4), off, int(n), k&1 != 0)
		x.deliver(&h, nil, patterned(off, n))
		return
	}
	i := int(k>>1&0x1f) % len(x.r2ts)
	r := &x.r2ts[i]
	off, n := r.off, min(r.n, 4096)
	sn := r.sn
	switch x.u8() % 16 {
	case 0:
		n = min(x.size(), 4096)
	case 1:
		off += x.size()
	case 2:
		sn += pdu.SN(x.u8())
	case 3:
		n /= 2
	}
	last := n == r.n
	if x.u8()%16 == 0 {
		last = !last
	}
	d.Init(r.lun, r.itt, r.ttt, sn, off, int(n), last)
	r.off, r.n, r.sn = r.off+min(n, r.n), r.n-min(n, r.n), r.sn+1
	if r.n == 0 {
		x.r2ts = append(x.r2ts[:i], x.r2ts[i+1:]...)
	}
	x.deliver(&h, nil, patterned(off, n))
}

func (x *executor) function() {
	var h pdu.Header
	h[0], h[1] = byte(pdu.OpTaskMgmtReq), 0x80
	m := (*pdu.TaskMgmtReq)(&h)
	k := x.u8()
	m.SetFunction([]sam.TMF{sam.AbortTask, sam.AbortTaskSet, sam.LogicalUnitReset, sam.TargetWarmReset, sam.TargetColdReset, sam.ClearTaskSet, sam.TaskReassign, sam.TMF(k & 0x7f)}[k%8])
	h.SetLUN(sam.LUN(k >> 3 & 1))
	m.SetRefTag(uint32(x.u8() % 12))
	m.SetRefCmdSN(x.next - 2 + pdu.SN(x.u8()%5))
	x.asks(&h)
	x.receive(&h, nil, nil)
}

// asks gives a function a tag of its own.
func (x *executor) asks(h *pdu.Header) {
	h.SetITT(uint32(0x100 + len(x.tmfs)))
	x.tmfs[h.ITT()] = 1
}

func (x *executor) textReq() {
	var h pdu.Header
	k := x.u8()
	h[0] = byte(pdu.OpTextReq)
	(*pdu.TextReq)(&h).SetFlags(k&1 != 0, k&2 != 0)
	h.SetITT(0x200)
	h.SetTTT(pdu.NoTag)
	if k&4 != 0 {
		h.SetITT(x.text.itt)
		h.SetTTT(x.text.ttt)
	}
	data := []byte([]string{"", "SendTargets=All\x00", "X-unknown=1\x00Y=2\x00", "MaxRecvDataSegmentLength=600\x00", "SendTargets=\x00X=\x00", "broken"}[k>>3%6])
	if k&0x40 != 0 {
		n := min(int(x.u8()), len(x.in))
		data, x.in = x.in[:n], x.in[n:]
	}
	x.receive(&h, nil, data)
}
