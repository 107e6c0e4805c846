package session

// A Reason says in one word why the session gives a connection up; one that an initiator has ended by itself has none.
type Reason uint8

// The reasons.
const (
	NoReason     Reason = iota
	PingTimeout         // no answer to a ping
	CmdSNGap            // a CmdSN that later requests wait for never came
	HeldTooMuch         // requests ahead of a CmdSN gap exceed Limits.HeldBytes
	DataTimeout         // data that was asked for, or announced, never came
	HeaderDigest        // a header with a wrong digest
	LogoutWait          // no logout followed the request for one, or its answer was not taken
)

// Add adds o to c.
func (c *Counters) Add(o *Counters) {
	c.Commands += o.Commands
	c.Responses += o.Responses
	c.BytesIn += o.BytesIn
	c.BytesOut += o.BytesOut
	c.OutOfWindow += o.OutOfWindow
	c.Held += o.Held
	c.LateData += o.LateData
	c.DataErrors += o.DataErrors
	c.DataDigests += o.DataDigests
	c.HeaderDigests += o.HeaderDigests
	c.Rejects += o.Rejects
	c.Aborted += o.Aborted
	c.Functions += o.Functions
	c.Pings += o.Pings
	c.Texts += o.Texts
	c.TextsOver += o.TextsOver
	c.TextsAstray += o.TextsAstray
	c.TextsBad += o.TextsBad
	c.PingTimeouts += o.PingTimeouts
}

// Kept returns the bytes that the session holds for its initiator by itself: requests ahead of a CmdSN gap, and the two halves of a
// text negotiation. The caller charges them to whatever bounds its memory.
func (s *Session) Kept() int { return s.heldBytes + cap(s.text.in) + cap(s.text.out) }

// waitsForData reports whether the initiator still owes Data-Out of t.
func (t *Task) waitsForData() bool {
	return (t.state == taskCollecting || t.state == taskDraining) && (t.unsol || t.r2tCount != 0)
}

// awaitData sees to it that t's data is not waited for without bound. It looks at a clock once a period and not for each task: what is kept
// for data that never comes is bounded, and only the time for which it is.
func (s *Session) awaitData(t *Task) {
	if s.dataDue == 0 && t.waitsForData() {
		s.dataDue = t.heard + s.lim.DataTimeout
		s.dueNews = true
	}
}

// tickData drops the connections of tasks whose data has not come for DataTimeout.
func (s *Session) tickData(now int64, acts []Action) []Action {
	if s.dataDue == 0 || now < s.dataDue {
		return acts
	}
	s.dataDue = 0
	var late *Task
	for _, t := range s.tasks {
		switch {
		case !t.waitsForData():
		case now-t.heard >= s.lim.DataTimeout:
			if late == nil || t.ITT < late.ITT {
				late = t
			}
		case s.dataDue == 0 || t.heard+s.lim.DataTimeout < s.dataDue:
			s.dataDue = t.heard + s.lim.DataTimeout
		}
	}
	if late != nil {
		acts = s.drop(late.Conn, DataTimeout, "data of a write was asked for, or announced, and none has come for "+seconds(s.lim.DataTimeout), acts)
	}
	return acts
}
