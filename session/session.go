package session

import (
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// Limits bound what one session may hold and how long it may wait. A zero field means its default.
type Limits struct {
	Window       uint32 // commands outstanding: the CmdSN window
	Immediate    uint32 // immediate SCSI commands outstanding, outside the window; and as many functions
	HeldBytes    int    // bytes of PDUs that came ahead of a CmdSN gap
	TextBytes    int    // one text request with its continuations
	TextRequests int    // text requests of one negotiation, those that fetch the rest of an answer left out
	GapTime      int64  // ns that a CmdSN gap may last; with one connection nothing can fill it
	DataTimeout  int64  // ns without any of the data that an R2T asked for, or that was announced as unsolicited
	NOPInterval  int64  // ns of silence before the target pings; negative: never
	NOPTimeout   int64  // ns that an initiator may take to answer a ping
	TMFDataWait  int64  // ns that a multi-task function waits for outstanding R2Ts
	TMFTimeout   int64  // ns that a function waits for writes that must have ended
	LogoutWait   int64  // ns between asking for a logout and closing
	MaxR2T       int    // R2Ts outstanding for one task, whatever was negotiated
}

// The defaults of Limits.
const (
	DefaultWindow       = 128
	DefaultImmediate    = 64
	DefaultHeldBytes    = 1 << 20
	DefaultTextBytes    = 64 << 10
	DefaultTextRequests = 256 // so many of 512 bytes, the shortest data segment, and TextBytes is reached
	DefaultGapTime      = 10e9
	DefaultDataTimeout  = 60e9
	DefaultNOPInterval  = 60e9
	DefaultNOPTimeout   = 30e9
	DefaultTMFDataWait  = 2e9
	DefaultTMFTimeout   = 30e9
	DefaultLogoutWait   = 5e9
	DefaultMaxR2T       = 8
)

func (l Limits) withDefaults() Limits {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	if l.Window == 0 {
		l.Window = DefaultWindow
	}
	if l.Immediate == 0 {
		l.Immediate = DefaultImmediate
	}
	if l.HeldBytes == 0 {
		l.HeldBytes = DefaultHeldBytes
	}
	if l.TextBytes == 0 {
		l.TextBytes = DefaultTextBytes
	}
	if l.TextRequests == 0 {
		l.TextRequests = DefaultTextRequests
	}
	if l.MaxR2T == 0 {
		l.MaxR2T = DefaultMaxR2T
	}
	def(&l.GapTime, DefaultGapTime)
	def(&l.DataTimeout, DefaultDataTimeout)
	def(&l.NOPInterval, DefaultNOPInterval)
	def(&l.NOPTimeout, DefaultNOPTimeout)
	def(&l.TMFDataWait, DefaultTMFDataWait)
	def(&l.TMFTimeout, DefaultTMFTimeout)
	def(&l.LogoutWait, DefaultLogoutWait)
	return l
}

// Counters count what a session has met; they only grow.
type Counters struct {
	Commands      uint64 // SCSI commands delivered
	Responses     uint64 // SCSI commands answered
	BytesIn       uint64 // Data-Out bytes, immediate data included
	BytesOut      uint64 // Data-In bytes
	OutOfWindow   uint64 // requests dropped: CmdSN outside the window, or a duplicate (RFC 7143 §4.2.2.1)
	Held          uint64 // requests that came ahead of a CmdSN gap
	LateData      uint64 // Data-Out PDUs for a task or transfer tag that is gone
	DataErrors    uint64 // commands ended for a fault in their Data-Out
	DataDigests   uint64 // PDUs with a wrong data digest
	HeaderDigests uint64 // connections dropped for a wrong header digest
	Rejects       uint64 // PDUs answered with Reject
	Aborted       uint64 // tasks aborted by a function, a logout or the end of the session
	Functions     uint64 // task management requests
	Pings         uint64 // NOP-Outs that wanted an answer
	Texts         uint64 // text requests
	TextsOver     uint64 // of these, refused for Limits.TextBytes or Limits.TextRequests
	TextsAstray   uint64 // refused since they go on with nothing that is open, or not as it has to
	TextsBad      uint64 // refused for their keys: no list of keys, one twice, or what is not to be had in this session
	PingTimeouts  uint64
}

// An ActionKind says what the caller must do.
type ActionKind uint8

// The actions.
const (
	// Begin: Task holds a new command and Data its immediate data, valid until this call's
	// actions are done. Check the CDB; then call Begun, or Completed where it failed.
	Begin ActionKind = iota + 1
	// Execute: the Data-Out that the command needs is in Task.Buf. Perform it, then call Completed.
	Execute
	// DataFault: the Data-Out of Task, which was being collected, is not what was asked for, or damaged. Take the buffer
	// back and call Completed with DataFaultResult.
	DataFault
	// Send: send Header and a copy of Data. Stamp it with Conn.Stamp when it takes its place in the stream.
	Send
	// SendUrgent is Send for a PDU that may overtake what is not yet stamped.
	SendUrgent
	// SendData: Send for a Data-In of Task, whose Data stays valid until the caller releases it.
	SendData
	// Abort: Task is no longer the session's and will not be answered. Take it back from the logical unit, drop
	// its unsent Data-In, and give it to the pool when nothing uses it. TMF, if any, is told by
	// Settled of tasks that must end first.
	Abort
	// ResetLU: abort the tasks of every nexus at LUN (AbortTasks on each session), reset the LU, then call TMFDone.
	ResetLU
	// ResetTarget: the same for every LU of the target.
	ResetTarget
	// AbortSet: abort the tasks of this nexus at LUN (AbortTasks on this session), then call TMFDone.
	AbortSet
	// ClearSet: abort the tasks of every nexus at LUN (AbortTasks on each session), then call TMFDone.
	ClearSet
	// ResetNexus: abort the tasks of this nexus at every LU (AbortTasks on this session), do there what the loss of the nexus
	// does, then call TMFDone.
	ResetNexus
	// Query: call TMFQueried; nothing is to be changed.
	Query
	// PowerCycle: a TARGET COLD RESET has been answered. Close every session of the target: Conn when what is queued on
	// it has been sent, all else at once.
	PowerCycle
	// Next: call Next.
	Next
	// SendTargets: answer with TextReply; Name is what was asked for ("All", "" or a target's name).
	SendTargets
	// Close: send what is queued on Conn, then close it. Name says why, for the log.
	Close
	// Drop: close Conn at once and end the session if it was its last connection. Name says why.
	Drop
)

// An Action is one thing to do. Which fields count depends on Kind.
type Action struct {
	Kind ActionKind
	Why  Reason // of a Drop
	// Refused, of a Send: the response to a command at LUN that the session has refused by itself; there was no Begin.
	Refused bool
	Conn    *Conn
	Task    *Task
	TMF     *TMF
	LUN     sam.LUN
	Header  pdu.Header
	Data    []byte
	Name    string
}

// A Session is one iSCSI session at a target. It belongs to the target's loop.
type Session struct {
	Nexus    sam.Nexus
	TSIH     uint16
	Type     login.SessionType
	Params   login.Params
	Counters Counters
	// NoReset refuses the functions that end the tasks of other initiators; the caller sets it.
	NoReset bool

	lim   Limits
	pool  *Pool
	conns []*Conn

	exp, max  pdu.SN // ExpCmdSN, and the MaxCmdSN last promised
	held      map[pdu.SN]*heldPDU
	heldBytes int
	gapSince  int64 // when the present CmdSN gap was first seen; 0: none

	tasks       map[uint32]*Task // by ITT: what did not end at once
	outstanding uint32           // commands and functions within the window that have not been answered
	immediate   uint32           // immediate commands that have not been answered
	immediateTM uint32           // immediate functions that have not been answered: they have room though no command has
	tmfs        []*TMF
	nextTTT     uint32
	dataDue     int64 // when to look for data that never came; 0: none is awaited
	dueNews     bool  // dataDue was set since NextTick was last asked
	text        textState
	closing     bool // logged out as a whole
	leaving     bool // a connection has logged out and is about to be closed
}

// A Conn is one connection of a session.
type Conn struct {
	CID     uint16
	Session *Session
	Ref     any // the caller's own

	statSN      pdu.SN // of the next PDU that takes one
	maxRecv     int    // bytes of data segment that we declared
	maxXmit     int    // bytes of data segment that the initiator declared
	lastRecv    int64
	pingSince   int64 // 0: no ping is out
	pingTTT     uint32
	logoutAsked int64 // when an async logout was sent; 0: not
	closed      bool
}

// New returns a session as login left it: params negotiated, cmdSN the number of the first command.
// Tasks come from pool.
func New(nexus sam.Nexus, tsih uint16, typ login.SessionType, params login.Params, cmdSN pdu.SN, lim Limits, pool *Pool) *Session {
	lim = lim.withDefaults()
	return &Session{Nexus: nexus, TSIH: tsih, Type: typ, Params: params, lim: lim, pool: pool,
		exp: cmdSN, max: cmdSN + pdu.SN(lim.Window) - 1, tasks: map[uint32]*Task{}}
}

// AddConn adds a connection that has logged in. statSN is the number of the next PDU that takes one, the final
// Login Response.
func (s *Session) AddConn(cid uint16, statSN pdu.SN, now int64) *Conn {
	c := &Conn{CID: cid, Session: s, statSN: statSN, lastRecv: now,
		maxRecv: int(s.Params.MaxRecvDataSegmentLength), maxXmit: int(s.Params.MaxXmitDataSegmentLength)}
	s.conns = append(s.conns, c)
	return c
}

// Reconnect takes what the login of a connection that is reinstated has negotiated: with a TSIH, only what belongs to the
// connection (RFC 7143 §13). Call it before AddConn.
func (s *Session) Reconnect(p *login.Params) {
	s.Params.HeaderDigest, s.Params.DataDigest = p.HeaderDigest, p.DataDigest
	s.Params.MaxRecvDataSegmentLength, s.Params.MaxXmitDataSegmentLength = p.MaxRecvDataSegmentLength, p.MaxXmitDataSegmentLength
}

// Conns returns the connections; the slice is the session's.
func (s *Session) Conns() []*Conn { return s.conns }

// MaxDataSegment returns the bytes of data segment that the initiator may send in one PDU: a PDU with more is a
// protocol error that costs the connection, before anything of it is read.
func (c *Conn) MaxDataSegment() int { return c.maxRecv }

// MaxDataIn returns the bytes that one Data-In may carry.
func (c *Conn) MaxDataIn() int { return min(c.maxXmit, int(c.Session.Params.MaxBurstLength)) }

// Stamp gives h its place in the connection's stream: StatSN where the PDU takes or shows one, and the command
// window. PDUs must be stamped in the order in which they are sent (RFC 7143 §4.2.2.2).
func (c *Conn) Stamp(h *pdu.Header) {
	s := c.Session
	// The window never shrinks below what was promised (RFC 7143 §4.2.2.1).
	if max := s.room(); s.max.Before(max) {
		s.max = max
	}
	h.SetWindow(s.exp, s.max)
	switch h.Opcode() {
	case pdu.OpDataIn:
		if !(*pdu.DataIn)(h).HasStatus() {
			return // StatSN is reserved without the S bit (RFC 7143 §11.7.3)
		}
	case pdu.OpR2T:
		h.SetStatSN(c.statSN) // shows the next one, takes none (RFC 7143 §11.8.3)
		return
	case pdu.OpNOPIn:
		if h.ITT() == pdu.NoTag {
			h.SetStatSN(c.statSN) // a ping takes none (RFC 7143 §11.19.2)
			return
		}
	}
	h.SetStatSN(c.statSN)
	c.statSN++
}

// room returns the MaxCmdSN that there is room for.
func (s *Session) room() pdu.SN {
	if s.outstanding >= s.lim.Window {
		return s.exp - 1
	}
	return s.exp + pdu.SN(s.lim.Window-s.outstanding) - 1
}

// ShowWindow tells the initiator that commands ended without an answer, if its window has grown by that (RFC 7143
// §11.19: a NOP-In that asks for nothing).
func (s *Session) ShowWindow(acts []Action) []Action {
	for _, c := range s.conns {
		if c.closed || !s.max.Before(s.room()) {
			continue
		}
		acts = append(acts, Action{Kind: SendUrgent, Conn: c})
		(*pdu.NOPIn)(&acts[len(acts)-1].Header).Init(0, pdu.NoTag, pdu.NoTag, 0)
		break
	}
	return acts
}

// Outstanding returns how many SCSI commands and functions are not answered yet.
func (s *Session) Outstanding() int { return int(s.outstanding + s.immediate + s.immediateTM) }

func (s *Session) send(c *Conn, acts []Action) ([]Action, *Action) {
	acts = append(acts, Action{Kind: Send, Conn: c})
	return acts, &acts[len(acts)-1]
}

func (s *Session) drop(c *Conn, r Reason, why string, acts []Action) []Action {
	return append(acts, Action{Kind: Drop, Why: r, Conn: c, Name: why})
}
