package target

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime/debug"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/target/evloop"
	"golang.org/x/sys/unix"
)

// maxHandover bounds the bytes that are read ahead of the end of a login and handed to the loop: what a reader's buffer
// holds.
const maxHandover = 16 << 10

// maxLinger bounds the bytes that are read of a login request that is refused for its length.
const maxLinger = 1 << 20

// A greeter serves one connection until it is logged in, on a goroutine of its own that ends with the login or with the
// discovery session.
type greeter struct {
	s      *Server
	nc     net.Conn
	r      *bufio.Reader
	from   netip.AddrPort
	way    way
	policy policy
	statSN pdu.SN
	status pdu.LoginStatus // of the last Login Response
	n      *login.Negotiator
	acts   []session.Action
	out    []byte
	hd, dd bool   // header and data digests are on
	rx, tx uint64 // bytes of PDUs read and written
}

func (s *Server) greeter(nc net.Conn, p *portal, from netip.AddrPort) *greeter {
	return &greeter{s: s, nc: nc, from: from, way: way{p, addrPort(nc.LocalAddr()), from.Addr()}, r: bufio.NewReaderSize(nc, maxHandover)}
}

// serveLogin owns nc and closes it, unless a loop has taken its descriptor over.
func (s *Server) serveLogin(nc net.Conn, p *portal, from netip.AddrPort) {
	g := s.greeter(nc, p, from)
	defer nc.Close()
	defer s.survive(from)
	if err := g.run(); err != nil {
		g.failed(err)
	}
}

// survive, deferred, has a fault in a login cost that connection alone.
func (s *Server) survive(from netip.AddrPort) {
	if v := recover(); v != nil {
		s.count.panics.Add(1)
		s.notes.warn(noteFault, "a fault in lunar itself, in a login", "from", from, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	}
}

func (g *greeter) run() error {
	g.nc.SetDeadline(time.Now().Add(g.s.cfg.LoginTimeout))
	g.policy = policy{s: g.s, way: g.way}
	n := login.NewNegotiator(&g.s.cfg.Login, &g.policy, rand.Reader, g.way.portal.group)
	g.n = n
	first := true
	for {
		h, data, err := g.read(n.MaxDataSegment())
		if err != nil && !errors.Is(err, errTooLong) {
			if first && errors.Is(err, io.EOF) {
				return nil // a port scan, or a health check
			}
			return fmt.Errorf("%s: %w", who(n), err)
		}
		if first {
			g.statSN = h.ExpStatSN()
			first = false
		}
		resp := n.Received(h, data)
		if resp.Drop {
			return fmt.Errorf("%s: %w", who(n), resp.Err)
		}
		if resp.Final {
			return g.finish(n, &resp)
		}
		g.atone(resp.Status)
		resp.Header.SetWindow(h.CmdSN(), h.CmdSN()) // login requests are immediate: no command yet
		if err := g.write(&resp.Header, resp.Data, true); err != nil {
			return fmt.Errorf("%s: %w", who(n), err)
		}
		if resp.Status != pdu.LoginSuccess {
			if err != nil {
				g.linger(h)
			}
			return fmt.Errorf("%s: status %04Xh: %w", who(n), uint16(resp.Status), resp.Err)
		}
	}
}

// linger takes some of the data that was not read, within the login's deadline: a close with data unread would be a reset,
// which takes the answer with it.
func (g *greeter) linger(h *pdu.Header) {
	if tc, ok := g.nc.(*net.TCPConn); ok && tc.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, g.r, int64(min(h.AHSLen()+pdu.Pad(h.DataLen()), maxLinger)))
	}
}

func who(n *login.Negotiator) string {
	r := n.Result()
	if r.InitiatorName == "" {
		return "an initiator that has not named itself"
	}
	return fmt.Sprintf("initiator %q to target %q", r.InitiatorName, r.TargetName)
}

// errTooLong is read's error for a data segment that was not read; the header is there.
var errTooLong = errors.New("the data segment is too long")

// Where in a PDU a digest turned out to be wrong. With errDataDigest the PDU is there.
var (
	errHeaderDigest = errors.New("a header with a wrong digest")
	errDataDigest   = errors.New("data with a wrong digest")
)

// read reads one PDU whose data segment may have up to limit bytes.
func (g *greeter) read(limit int) (*pdu.Header, []byte, error) {
	var h pdu.Header
	if _, err := io.ReadFull(g.r, h[:]); err != nil {
		return nil, nil, err
	}
	var ahs []byte
	if g.hd {
		// Before anything in the header is believed, but how far it goes.
		ahs = make([]byte, h.AHSLen()+pdu.DigestLen)
		if _, err := io.ReadFull(g.r, ahs); err != nil {
			return nil, nil, err
		}
		digest := pdu.DigestAt(ahs[h.AHSLen():])
		if ahs = ahs[:h.AHSLen()]; pdu.UpdateDigest(pdu.Digest(h[:]), ahs) != digest {
			return nil, nil, errHeaderDigest
		}
	}
	n := h.DataLen()
	if n > limit {
		return &h, nil, fmt.Errorf("%w: %v with %d bytes, more than %d", errTooLong, h.Opcode(), n, limit)
	}
	size := pdu.Pad(n)
	if g.dd && n != 0 {
		size += pdu.DigestLen
	}
	if !g.hd {
		size += h.AHSLen()
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(g.r, body); err != nil {
		return nil, nil, err
	}
	if !g.hd {
		ahs, body = body[:h.AHSLen()], body[h.AHSLen():]
	}
	g.rx += uint64(pdu.HeaderLen + len(ahs) + len(body))
	data := body[:n]
	if t := g.s.cfg.Trace.PDU; t != nil {
		t(g.from.String(), "rx", pdu.Describe(&h, ahs, data))
	}
	if end := pdu.Pad(n); end != len(body) && pdu.Digest(body[:end]) != pdu.DigestAt(body[end:]) {
		return &h, data, errDataDigest
	}
	return &h, data, nil
}

// write sends one PDU; numbered says that it takes a StatSN here rather than from a session.
func (g *greeter) write(h *pdu.Header, data []byte, numbered bool) error {
	h.SetDataLen(len(data))
	if h.Opcode() == pdu.OpLoginResp {
		g.status = (*pdu.LoginResp)(h).Status()
	}
	if numbered {
		h.SetStatSN(g.statSN)
		g.statSN++
	}
	if t := g.s.cfg.Trace.PDU; t != nil {
		t(g.from.String(), "tx", pdu.Describe(h, nil, data))
	}
	g.out = append(g.out[:0], h[:]...)
	if g.hd {
		g.out = pdu.AppendDigest(g.out, pdu.Digest(h[:]))
	}
	g.out = append(append(g.out, data...), zeroes[:pdu.Pad(len(data))-len(data)]...)
	if g.dd && len(data) != 0 {
		g.out = pdu.AppendDigest(g.out, pdu.DataDigest(data))
	}
	g.tx += uint64(len(g.out))
	_, err := g.nc.Write(g.out)
	return err
}

// finish does the end of a login that succeeded.
func (g *greeter) finish(n *login.Negotiator, resp *login.Response) error {
	res := n.Result()
	if res.Type == login.Discovery {
		return g.discovery(res, resp)
	}
	t := g.s.table.Load().byName[res.TargetName]
	if t == nil {
		return g.refuse(n, pdu.TargetRemoved, errors.New("the target was removed meanwhile"))
	}
	fd, err := g.descriptor()
	if err != nil {
		return g.refuse(n, pdu.OutOfResources, err)
	}
	ahead, _ := g.r.Peek(g.r.Buffered())
	status, err := t.admit(g, fd, res, resp, ahead)
	if err != nil {
		unix.Close(fd)
		return g.refuse(n, status, err)
	}
	return nil
}

// refuse turns a login that had succeeded so far into a failure.
func (g *greeter) refuse(n *login.Negotiator, status pdu.LoginStatus, why error) error {
	resp := n.Refuse(status, why)
	resp.Header.SetWindow(n.Result().CmdSN, n.Result().CmdSN)
	if err := g.write(&resp.Header, resp.Data, true); err != nil {
		return err
	}
	return fmt.Errorf("%s: status %04Xh: %w", who(n), uint16(status), why)
}

// descriptor duplicates the connection's descriptor. File() would clear O_NONBLOCK on the description that both
// share.
func (g *greeter) descriptor() (int, error) {
	tc, ok := g.nc.(*net.TCPConn)
	if !ok {
		return -1, errors.New("not a TCP connection")
	}
	rc, err := tc.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, dupErr := -1, error(nil)
	err = rc.Control(func(raw uintptr) {
		fd, dupErr = unix.FcntlInt(raw, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err == nil {
		err = dupErr
	}
	return fd, err
}

// admit makes a session of a login, or of the session that it reinstates a connection of (RFC 7143 §6.3.5, §6.3.6): one
// critical section on the target's loop. The final response goes out from there.
func (t *Target) admit(g *greeter, fd int, res login.Result, resp *login.Response, ahead []byte) (pdu.LoginStatus, error) {
	l := t.l
	l.ev.Lock()
	defer l.ev.Unlock()
	defer l.ev.Wake()
	switch {
	case l.closed, !t.ready.Load():
		return pdu.TargetRemoved, errors.New("the target is going away")
	case t.closing != 0:
		return pdu.ServiceUnavailable, errors.New("the target is being drained or removed")
	case l.draining:
		return pdu.ServiceUnavailable, errors.New("the server is shutting down")
	}
	conf, rights, status, err := g.policy.again(t, &res)
	if err != nil {
		return status, err
	}
	nexus := sam.Nexus{Initiator: res.InitiatorName, ISID: res.ISID, Target: t.name, PortGroup: res.PortalGroup}
	se := t.byNexus[nexus]
	switch {
	case res.TSIH != 0 && (se == nil || se.s.TSIH != res.TSIH):
		return pdu.SessionDoesNotExist, fmt.Errorf("TSIH %d is not this initiator port's", res.TSIH)
	case res.TSIH != 0:
		old := se.conn(res.CID)
		if old == nil {
			return pdu.TooManyConnections, errors.New("a second connection of a session; one is allowed")
		}
		l.s.count.reinstated.Add(1)
		l.s.notes.info(noteReinstated, "connection reinstatement", "conn", old.name, "from", g.from)
		se.keep = true
		old.lost(endReinstated, "the initiator has reinstated it from "+g.from.String())
		se.keep = false
		if se.ended {
			return pdu.SessionDoesNotExist, errors.New("the session ended meanwhile")
		}
		se.s.Reconnect(&res.Params)
		se.setRights(rights) // it may come from elsewhere now
	default:
		var flaps flapGuard
		if se != nil {
			l.s.count.reinstated.Add(1)
			flaps = se.flaps
			flaps.note(l.s.log, nexus, se.from, g.from, l.s.group.Clock())
			l.dropSession(se, endReinstated, "the initiator has reinstated the session from "+g.from.String())
		}
		if n := l.s.sessions.Load(); n >= int64(l.s.cfg.MaxSessions) {
			return pdu.OutOfResources, fmt.Errorf("%d sessions, the limit", n)
		}
		if se = l.newSession(t, nexus, res, conf); se == nil {
			return pdu.OutOfResources, errors.New("no session handle is free")
		}
		se.flaps = flaps
		se.configure(conf, rights)
	}
	se.from, se.alias = g.from, res.InitiatorAlias
	c := &conn{l: l, se: se, fd: fd, name: res.InitiatorName + "@" + g.from.String(), way: g.way, from: g.from}
	c.count.RxBytes, c.count.TxBytes = g.rx+uint64(len(ahead)), g.tx
	id, err := l.ev.Add(fd, c, evloop.Readable)
	if err != nil {
		l.endSession(se, endBroken, err.Error())
		return pdu.OutOfResources, err
	}
	c.id = id
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	c.c = se.s.AddConn(res.CID, g.statSN, l.s.group.Clock())
	c.c.Ref = c
	c.stall.F = c.stalled
	resp.Header.SetDataLen(len(resp.Data))
	(*pdu.LoginResp)(&resp.Header).SetTSIH(se.s.TSIH)
	c.queue(&session.Action{Kind: session.Send, Conn: c.c, Header: resp.Header, Data: resp.Data}, nil)
	c.full(&se.s.Params)
	se.arm()
	if len(ahead) != 0 {
		c.setRest(ahead)
		c.setWhole(true)
	}
	if !c.dead {
		l.ev.Poke(id)
	}
	l.s.count.logins.Add(1)
	kind := LoggedIn
	if res.TSIH != 0 {
		kind = Reconnected
	}
	l.notifyLocked(kind, se, res.CID, g.from, "", "")
	l.s.notes.info(noteLogin, "login", "conn", c.name, "target", t.name, "tsih", se.s.TSIH, "user", res.AuthUser)
	return pdu.LoginSuccess, nil
}

func (s *sess) conn(cid uint16) *conn {
	for _, c := range s.s.Conns() {
		if c.CID == cid {
			return c.Ref.(*conn)
		}
	}
	return nil
}

// newSession makes a session with a handle of its own; nil: there is none left.
func (l *loop) newSession(t *Target, nexus sam.Nexus, res login.Result, c *conf) *sess {
	tsih, ok := l.s.tsih.take()
	if !ok {
		return nil
	}
	t.seq++
	se := &sess{t: t, since: time.Now(), seq: t.seq, user: res.AuthUser, sent: res.InitiatorSent, luns: map[sam.LUN]*lunNexus{},
		s: session.New(nexus, tsih, login.Normal, res.Params, res.CmdSN, c.limits, &l.tasks)}
	se.timer.F = se.tick
	t.sessions[tsih] = se
	t.byNexus[nexus] = se
	l.s.sessions.Add(1)
	return se
}

// discovery serves a discovery session to its end (RFC 7143 §4.3): text, NOPs and logout, with the same state machine
// as a normal session, on this goroutine.
func (g *greeter) discovery(res login.Result, resp *login.Response) error {
	g.nc.SetDeadline(time.Now().Add(g.s.cfg.DiscoveryTime))
	g.s.count.discoveries.Add(1)
	nexus := sam.Nexus{Initiator: res.InitiatorName, ISID: res.ISID, PortGroup: res.PortalGroup}
	lim := g.s.cfg.Limit
	lim.NOPInterval = -1
	s := session.New(nexus, discoveryTSIH, login.Discovery, res.Params, res.CmdSN, lim, &session.Pool{})
	c := s.AddConn(res.CID, g.statSN, 0)
	(*pdu.LoginResp)(&resp.Header).SetTSIH(discoveryTSIH)
	c.Stamp(&resp.Header)
	if err := g.write(&resp.Header, resp.Data, false); err != nil {
		return err
	}
	g.hd, g.dd = res.Params.HeaderDigest, res.Params.DataDigest
	for {
		h, data, err := g.read(c.MaxDataSegment())
		var acts []session.Action
		switch {
		case errors.Is(err, errDataDigest):
			acts = s.Damaged(c, 0, h, nil, data, g.acts[:0])
			g.s.notes.warn(noteDamaged, "data came damaged: its digest is wrong", "discovery", res.InitiatorName, "from", g.from, "pdu", h.Opcode())
		case errors.Is(err, errHeaderDigest):
			g.s.count.drops[dropDigest].Add(1)
			g.s.notes.warn(noteDamaged, "a header came damaged: its digest is wrong", "discovery", res.InitiatorName, "from", g.from)
			return nil
		case err != nil:
			return nil // it has seen enough
		default:
			acts = s.Received(c, 0, h, nil, data, g.acts[:0])
		}
		for i := 0; i < len(acts); i++ {
			a := &acts[i]
			switch a.Kind {
			case session.SendTargets:
				if keys, ok := g.s.table.Load().sendTargets(a.Name, "", login.Initiator{Name: res.InitiatorName, Sent: res.InitiatorSent}, g.way); ok {
					acts = s.TextReply(keys, acts)
				} else {
					acts = s.TextRefuse(acts)
				}
			case session.Send, session.SendUrgent:
				c.Stamp(&a.Header)
				if err := g.write(&a.Header, a.Data, false); err != nil {
					return nil
				}
			case session.Close, session.Drop:
				return nil
			}
		}
		g.acts = acts
	}
}
