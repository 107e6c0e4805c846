package target

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// Stats is what a Server has met since it was made. Everything but the first group only grows.
type Stats struct {
	Sessions    int   // normal sessions now
	LoggingIn   int   // connections in login or discovery now
	BufferBytes int64 // memory that data of commands takes now
	BufferLimit int64 // of Config.BufferBytes

	Accepted    uint64            // connections that a portal has taken
	TurnedAway  uint64            // of these, told to try again, or closed, for Config.MaxLogins or MaxLoginsPerIP or SetAccepting
	Logins      uint64            // normal sessions' logins that succeeded
	Discoveries uint64            // discovery sessions
	Reinstated  uint64            // logins that ended an older session or connection of the same initiator port
	Slowed      uint64            // logins whose answer waited since they had failed to authenticate
	LoginsLost  map[string]uint64 // logins that failed, by reason: LoginReasons has all of them
	Ended       map[string]uint64 // normal sessions that ended, by reason: EndReasons has all of them
	Drops       map[string]uint64 // connections given up in full-feature phase, by reason: DropReasons has all of them
	TaskSetFull uint64            // commands answered TASK SET FULL for want of memory
	Orphans     int               // stores of removed LUNs that have not ended their requests, now
	Panics      uint64            // faults of lunar itself
	NotLogged   uint64            // lines left out of the log since there were too many of their kind

	Commands session.Counters // of all normal sessions
}

// A dropReason says why a connection in full-feature phase is given up by the target. What the initiator ends by itself has none.
type dropReason uint8

const (
	dropNone dropReason = iota
	dropPing
	dropGap
	dropHeld
	dropData
	dropLogout
	dropDigest   // a header with a wrong digest
	dropHeader   // a header that cannot be: its data segment is longer than was declared
	dropUnread   // it does not read: too much waits for it, or it has taken nothing for too long
	dropNoMemory // no memory for a PDU that cannot go without
	dropFault    // lunar's own
	drops
)

// dropNames are the reasons' names, as labels of a metric.
var dropNames = [drops]string{dropPing: "ping_timeout", dropGap: "cmdsn_gap", dropHeld: "held_too_much", dropData: "data_timeout", dropLogout: "no_logout",
	dropDigest: "header_digest", dropHeader: "bad_header", dropUnread: "unread", dropNoMemory: "no_memory", dropFault: "fault"}

// sessionDrops are package session's reasons.
var sessionDrops = [...]dropReason{session.PingTimeout: dropPing, session.CmdSNGap: dropGap, session.HeldTooMuch: dropHeld,
	session.DataTimeout: dropData, session.HeaderDigest: dropDigest, session.LogoutWait: dropLogout}

// A loginLoss says how a login failed: by the status that it was answered with, or without an answer.
type loginLoss uint8

const (
	lostProtocol loginLoss = iota // what came was no login
	lostTimeout                   // not done within Config.LoginTimeout
	lostGone                      // the connection ended
	lostOther                     // a status that is not below
	losses       = int(lostOther) + 1
)

// loginStatuses are the statuses that are counted apart, and their names.
var loginStatuses = [...]struct {
	status pdu.LoginStatus
	name   string
}{
	{pdu.TargetMovedTemp, "moved_temporarily"}, {pdu.TargetMovedPerm, "moved_permanently"}, {pdu.InitiatorError, "initiator_error"},
	{pdu.AuthenticationFailed, "authentication"}, {pdu.AuthorizationFailure, "authorization"}, {pdu.TargetNotFound, "not_found"},
	{pdu.TargetRemoved, "removed"}, {pdu.UnsupportedVersion, "version"}, {pdu.TooManyConnections, "too_many_connections"},
	{pdu.MissingParameter, "missing_parameter"}, {pdu.CannotInclude, "cannot_include"}, {pdu.SessionTypeNotSup, "session_type"},
	{pdu.SessionDoesNotExist, "no_session"}, {pdu.InvalidDuringLogin, "invalid_during_login"}, {pdu.TargetError, "target_error"},
	{pdu.ServiceUnavailable, "unavailable"}, {pdu.OutOfResources, "out_of_resources"},
}

var lossNames = [losses]string{lostProtocol: "protocol", lostTimeout: "timeout", lostGone: "gone", lostOther: "other"}

// counts are a Server's own: what happens off the loops, or seldom enough for an atomic.
type counts struct {
	accepted, turnedAway, slowed, logins, discoveries, reinstated atomic.Uint64
	lost                                                          [losses + len(loginStatuses)]atomic.Uint64
	drops                                                         [drops]atomic.Uint64
	ended                                                         [endings]atomic.Uint64
	taskSetFull, panics                                           atomic.Uint64
}

func lossOf(status pdu.LoginStatus, err error) int {
	if status != pdu.LoginSuccess {
		for i := range loginStatuses {
			if loginStatuses[i].status == status {
				return losses + i
			}
		}
		return int(lostOther)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return int(lostTimeout)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, os.ErrClosed):
		return int(lostGone)
	}
	return int(lostProtocol)
}

// lossName is the name of what lossOf returns.
func lossName(i int) string {
	if i < losses {
		return lossNames[i]
	}
	return loginStatuses[i-losses].name
}

// LoginReasons are the keys of Stats.LoginsLost.
func LoginReasons() []string {
	var names []string
	for i := range losses + len(loginStatuses) {
		names = append(names, lossName(i))
	}
	return names
}

// DropReasons are the keys of Stats.Drops.
func DropReasons() []string { return append([]string(nil), dropNames[dropNone+1:]...) }

// Stats returns what the server has counted. It takes each loop's lock for a moment.
func (s *Server) Stats() Stats {
	c := &s.count
	st := Stats{
		Sessions: int(s.sessions.Load()), LoggingIn: s.gate.inside(), BufferBytes: s.budget.Used(), BufferLimit: s.budget.Limit(),
		Accepted: c.accepted.Load(), TurnedAway: c.turnedAway.Load(), Slowed: c.slowed.Load(), Logins: c.logins.Load(), Discoveries: c.discoveries.Load(),
		Orphans: int(s.orphans.Load()), Reinstated: c.reinstated.Load(), TaskSetFull: c.taskSetFull.Load(), Panics: c.panics.Load(), NotLogged: s.notes.left(),
		LoginsLost: map[string]uint64{}, Drops: map[string]uint64{}, Ended: map[string]uint64{},
	}
	for i, name := range LoginReasons() {
		st.LoginsLost[name] = c.lost[i].Load()
	}
	for r := dropNone + 1; r < drops; r++ {
		st.Drops[dropNames[r]] = c.drops[r].Load()
	}
	for e, name := range EndReasons() {
		st.Ended[name] = c.ended[e].Load()
	}
	s.mu.Lock()
	loops := append([]*loop(nil), s.loops...)
	st.Commands = s.past
	s.mu.Unlock()
	for _, l := range loops {
		l.ev.Lock()
		l.addCountersLocked(&st.Commands)
		l.ev.Unlock()
	}
	return st
}

// addCountersLocked adds what the sessions of l have counted, those that have ended too.
func (l *loop) addCountersLocked(to *session.Counters) {
	to.Add(&l.past)
	for _, t := range l.targets {
		to.Add(&t.past)
		for _, se := range t.sessions {
			to.Add(&se.s.Counters)
		}
	}
}
