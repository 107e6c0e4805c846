package target

import (
	"net/netip"
	"time"
)

// An Event is a login, the end of a session, or a login that failed.
type Event struct {
	Time      time.Time
	Kind      EventKind
	Target    string         // name; empty where a failed login named none
	Initiator string         // name; likewise
	User      string         // CHAP name, or empty
	Peer      netip.AddrPort // where it came from
	TSIH, CID uint16         // 0 for a failed login
	Reason    string         // of SessionEnded one of EndReasons, of LoginFailed one of LoginReasons
	Detail    string         // for people: text of a peer in it is quoted
}

// An EventKind says what happened.
type EventKind uint8

// The kinds of event.
const (
	LoggedIn    EventKind = iota + 1 // a new session
	Reconnected                      // a session goes on with another connection in place of one (connection reinstatement)
	SessionEnded
	LoginFailed
)

var eventNames = [...]string{LoggedIn: "login", Reconnected: "reconnect", SessionEnded: "session end", LoginFailed: "failed login"}

func (k EventKind) String() string { return eventNames[k] }

// An ending says why a session, or a connection, ends.
type ending uint8

const (
	endLogout     ending = iota
	endClosed            // the initiator has closed its connection, without a logout
	endBroken            // an error of the connection
	endReinstated        // another login of the same initiator port took its place
	endAdmin             // CloseSession or CloseConnection
	endDrained           // Drain, or the server's shutdown
	endRemoved           // the target was removed
	endReset             // TARGET COLD RESET of some session
	ends                 // from here on: a dropReason, counted from 1
	endings       = int(ends) + int(drops) - 1
)

var endNames = [ends]string{endLogout: "logout", endClosed: "closed", endBroken: "connection_error", endReinstated: "reinstated", endAdmin: "admin",
	endDrained: "drained", endRemoved: "target_removed", endReset: "target_reset"}

// droppedFor is the ending of what the target gives up for r.
func droppedFor(r dropReason) ending { return ends + ending(r) - 1 }

func (e ending) String() string {
	if e < ends {
		return endNames[e]
	}
	return dropNames[dropReason(e-ends)+1]
}

// EndReasons are the keys of Stats.Ended: what ended by itself or by an administrator, then DropReasons.
func EndReasons() []string { return append(append([]string(nil), endNames[:]...), DropReasons()...) }

func (s *Server) notify(e *Event) {
	if s.cfg.Notify != nil {
		e.Time = time.Now()
		s.cfg.Notify(*e)
	}
}

// notifyLocked tells of se, by its connection at from.
func (l *loop) notifyLocked(k EventKind, se *sess, cid uint16, from netip.AddrPort, reason, detail string) {
	if l.s.cfg.Notify != nil {
		l.s.notify(&Event{Kind: k, Target: se.t.name, Initiator: se.s.Nexus.Initiator, User: se.user, Peer: from,
			TSIH: se.s.TSIH, CID: cid, Reason: reason, Detail: detail})
	}
}

// failed counts, logs and tells of a login that failed with err.
func (g *greeter) failed(err error) {
	s := g.s
	why := lossOf(g.status, err)
	s.count.lost[why].Add(1)
	s.notes.info(noteLoginFailed, "login failed", "from", g.from, "error", err)
	e := Event{Kind: LoginFailed, Peer: g.from, Reason: lossName(why), Detail: err.Error()}
	if g.n != nil {
		res := g.n.Result()
		e.Initiator, e.Target, e.User = res.InitiatorName, res.TargetName, res.AuthUser
	}
	s.notify(&e)
}
