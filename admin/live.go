package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/target"
)

// serverConfig is the configuration of the server: its events are the hub's, too.
func (m *Manager) serverConfig() target.Config {
	c := m.cfg.Target
	also := c.Notify
	c.Notify = func(e target.Event) {
		m.hub.publish(eventOf(e))
		if also != nil {
			also(e)
		}
	}
	return c
}

func eventOf(e target.Event) Event {
	out := Event{Time: e.Time, Target: e.Target, LUN: -1, Peer: strings.TrimSpace(e.Initiator + " " + e.Peer.String()), Detail: cmp.Or(e.Detail, e.Reason)}
	switch e.Kind {
	case target.LoggedIn, target.Reconnected:
		out.Kind = SessionLogin
	case target.SessionEnded:
		out.Kind, out.Detail = SessionLogout, e.Reason
	default:
		out.Kind, out.Detail = LoginFailed, e.Reason
	}
	return out
}

// liveConfig says in the server's words what t is.
func (m *Manager) liveConfig(t *spec.Target, acc *accounts) target.TargetConfig {
	_, iscsi, _ := spec.NormalizeName(t.Name)
	c := target.TargetConfig{Alias: t.Alias, AnyName: !iscsi, NoController: t.NoController, TgtNaming: t.TgtNaming, TID: t.TID, PortalGroups: t.PortalGroups, Offline: t.Offline,
		Access: liveAccess(t), Auth: m.liveAuth(t.Auth, acc),
		Redirect: target.Redirect{Address: t.Redirect.Address, Port: uint16(t.Redirect.Port), Permanent: t.Redirect.Permanent}}
	for _, mp := range t.LUNMaps {
		mask := target.Mask{Initiator: mp.Initiator}
		for _, l := range mp.LUNs {
			mask.LUNs = append(mask.LUNs, target.MaskLUN{As: l.As, LUN: l.LUN})
		}
		c.Masks = append(c.Masks, mask)
	}
	if t.NopInterval > 0 {
		// tgt pings every so many seconds, and gives up after so many pings without an answer.
		const second = 1e9
		c.NOPInterval = int64(t.NopInterval) * second
		c.NOPTimeout = c.NOPInterval * int64(max(t.NopCount, 1))
	}
	m.setParams(&c, t.Params)
	return c
}

// liveAccess leaves out rules whose address says nothing: tgt's faces keep these, and they match nobody.
func liveAccess(t *spec.Target) *target.Access {
	a := &target.Access{ExactNames: t.ExactNames}
	for _, r := range t.Access {
		rule := target.Rule{Initiator: r.Initiator, NoReset: r.NoReset, ReadOnly: r.ReadOnly}
		if r.Address != "" {
			var err error
			if rule.Address, err = target.ParseAddress(r.Address); err != nil {
				continue
			}
		}
		a.Rules = append(a.Rules, rule)
	}
	return a
}

// setParams turns keys that were set into offers and limits. What lunar does not negotiate is kept and shown only.
func (m *Manager) setParams(c *target.TargetConfig, set map[string]string) {
	if len(set) == 0 {
		return
	}
	base := m.cfg.Target.Login
	if base.MaxPDUs == 0 {
		base = login.Defaults()
	}
	p := base.Params
	number := func(name string, set func(n int), text string) {
		if n, err := strconv.Atoi(text); err == nil {
			set(n)
		}
	}
	for name, v := range set {
		yes := v == "Yes"
		switch name {
		case "HeaderDigest":
			p.HeaderDigest, c.RequireHeaderDigest = strings.Contains(v, "CRC32C"), v == "CRC32C"
		case "DataDigest":
			p.DataDigest, c.RequireDataDigest = strings.Contains(v, "CRC32C"), v == "CRC32C"
		case "InitialR2T":
			p.InitialR2T = yes
		case "ImmediateData":
			p.ImmediateData = yes
		case "DataPDUInOrder":
			p.DataPDUInOrder = yes
		case "DataSequenceInOrder":
			p.DataSequenceInOrder = yes
		case "MaxRecvDataSegmentLength":
			number(name, func(n int) { p.MaxRecvDataSegmentLength = uint32(n) }, v)
		case "MaxBurstLength":
			number(name, func(n int) { p.MaxBurstLength = uint32(n) }, v)
		case "FirstBurstLength":
			number(name, func(n int) { p.FirstBurstLength = uint32(n) }, v)
		case "MaxOutstandingR2T":
			number(name, func(n int) { p.MaxOutstandingR2T = uint16(n) }, v)
		case "DefaultTime2Wait":
			number(name, func(n int) { p.DefaultTime2Wait = uint16(n) }, v)
		case "DefaultTime2Retain":
			number(name, func(n int) { p.DefaultTime2Retain = uint16(n) }, v)
		case "MaxConnections":
			number(name, func(n int) { p.MaxConnections = uint16(n) }, v)
		case "ErrorRecoveryLevel":
			number(name, func(n int) { p.ErrorRecoveryLevel = uint8(n) }, v)
		case "MaxQueueCmd":
			number(name, func(n int) { c.Window = uint32(n) }, v)
		}
	}
	c.Params = &p
}

// liveAuth is the Auth with its secrets. A name without an account cannot come in: it has no secret. Where none comes in, the accounts that the
// server was made with do, if there are any: who asked for passwords for everything is not to be let down by what names no account.
func (m *Manager) liveAuth(s spec.Auth, a *accounts) *login.Auth {
	out, std := &login.Auth{}, m.cfg.Target.Auth
	find := func(name string) login.Account {
		acc := login.Account{Name: name}
		if i := a.find(name); i >= 0 {
			acc.Secret = []byte(a.list[i].Secret)
		}
		return acc
	}
	for _, name := range s.Incoming {
		out.Incoming = append(out.Incoming, find(name))
	}
	if s.Outgoing != "" {
		acc := find(s.Outgoing)
		out.Outgoing = &acc
	}
	if len(out.Incoming) == 0 {
		out.Incoming = std.Incoming
		if out.Outgoing == nil {
			out.Outgoing = std.Outgoing
		}
	}
	return out
}

// checkLive asks the server whether it can be as t says, before anything is saved.
func (m *Manager) checkLive(t *spec.Target, acc *accounts) error {
	cfg := m.liveConfig(t, acc)
	if err := m.srv.CheckTarget(&cfg); err != nil {
		return Errorf(Invalid, "target %s: %w", t.Name, err)
	}
	return nil
}

// apply makes the live target what is published of it. What is published has been checked, so that it cannot fail; of two callers the later one
// finds what the other has published.
func (m *Manager) apply(e *entry) {
	e.applying.Lock()
	defer e.applying.Unlock()
	m.mu.RLock()
	if e.spec == nil {
		m.mu.RUnlock()
		return
	}
	t, acc, live := m.specOfLocked(e), m.accounts, e.live
	m.mu.RUnlock()
	cfg := m.liveConfig(&t, &acc)
	cfg.LoopOf = live.Config().LoopOf
	if err := live.Configure(cfg); err != nil && !errors.Is(err, target.ErrNoTarget) {
		m.log.Warn("a target could not be made what is set; its next change may", "target", e.name, "error", err)
	}
}

func liveInfo(t *target.Target) target.Info { return t.Info() }

// coded makes an *Error of what the server answered.
func coded(err error, otherwise Code) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	for _, c := range []struct {
		is   error
		code Code
		hint string
	}{
		{target.ErrNoTarget, NoTarget, ""}, {target.ErrTargetInUse, TargetInUse, "log the initiators out, or force it"},
		{target.ErrLUNExists, LUNExists, ""}, {target.ErrNoLUN, NoLUN, ""}, {target.ErrLUNInUse, LUNInUse, "try again, or force it"},
		{target.ErrWouldShrink, WouldShrink, "force it if what lies behind may be lost"}, {target.ErrRemovalPrevented, RemovalPrevented, ""},
		{target.ErrNoMedium, Invalid, ""}, {target.ErrOnline, Invalid, "take the LUN offline first"},
		{target.ErrNoSession, NoSession, ""}, {target.ErrNoConnection, NoConnection, ""}, {target.ErrNoPortal, NoPortal, ""},
		{target.ErrClosed, ShuttingDown, ""}, {context.DeadlineExceeded, Timeout, ""}, {context.Canceled, Timeout, ""},
	} {
		if errors.Is(err, c.is) {
			return &Error{Code: c.code, Err: err, Hint: c.hint}
		}
	}
	return &Error{Code: otherwise, Err: err}
}

// shown is a volume for logs: without its options, which may have a secret among them.
func shown(volume string) string {
	s, _, options := strings.Cut(volume, "?")
	if options {
		return fmt.Sprintf("%s?…", s)
	}
	return s
}
