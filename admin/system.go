package admin

import (
	"context"
	"fmt"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
)

// System is Service's.
func (m *Manager) System() SystemState {
	m.mu.RLock()
	s := SystemState{Spec: m.system, Version: m.cfg.Version, Started: m.started}
	m.mu.RUnlock()
	if m.cfg.State != nil {
		s.StateFile = m.cfg.State.File()
	}
	s.Stats, s.Portals = m.srv.Stats(), m.Portals()
	return s
}

// EditSystem is Service's.
func (m *Manager) EditSystem(ctx context.Context, edit func(*spec.System) error) (err error) {
	d, same := deed{op: "system change", kind: SystemChanged, lun: -1}, false
	defer func() { m.tell(ctx, d, same, err) }()
	ctx, done, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := m.systemTurn.take(ctx, m.cfg.MaxWaiting); err != nil {
		return err
	}
	defer m.systemTurn.give()
	m.mu.RLock()
	cur := m.system
	m.mu.RUnlock()
	next := cur
	if err := edit(&next); err != nil {
		return invalid(err)
	}
	if err := next.CheckSystem(); err != nil {
		return invalid(err)
	}
	if d.detail = spec.Changes(cur, next); d.detail == "" {
		same = true
		return nil
	}
	b, err := encode(next)
	if err != nil {
		return err
	}
	if err := m.save(map[string][]byte{keySystem: b}); err != nil {
		return err
	}
	m.setSystem(next)
	return nil
}

func (m *Manager) setSystem(s spec.System) {
	m.mu.Lock()
	was := m.system
	m.system = s
	m.mu.Unlock()
	m.srv.SetAccepting(!s.Offline)
	if was.Debug != s.Debug {
		m.cfg.SetDebug(s.Debug)
	}
}

// Shutdown is Service's.
func (m *Manager) Shutdown(ctx context.Context, onlyIfEmpty bool) (err error) {
	d := deed{op: "shutdown", lun: -1}
	defer func() { m.tell(ctx, d, false, err) }()
	if m.cfg.Shutdown == nil {
		return &Error{Code: Unsupported, Text: "this program cannot be shut down from here"}
	}
	m.mu.Lock()
	if n := len(m.byTID); onlyIfEmpty && n != 0 {
		m.mu.Unlock()
		return &Error{Code: TargetInUse, Text: "there are targets yet", Hint: "remove them first"}
	}
	m.closing = true
	m.mu.Unlock()
	m.cfg.Shutdown()
	return nil
}

// Drivers is Service's.
func (m *Manager) Drivers() []DriverInfo {
	list := m.cfg.Registry.Drivers()
	out := make([]DriverInfo, len(list))
	for i, d := range list {
		out[i] = DriverInfo{Scheme: d.Scheme, Help: d.Help, Options: append([]string(nil), d.Options...), Absent: d.Absent,
			Traits: append([]string(nil), d.Traits...), Can: d.Volumes.Can()}
	}
	return out
}

// CloseSession is Service's.
func (m *Manager) CloseSession(ctx context.Context, ref Ref, tsih uint16) error {
	return m.cut(ctx, ref, "session close", fmt.Sprintf("session %d", tsih), func(t *target.Target) error { return t.CloseSession(tsih) })
}

// CloseConnection is Service's.
func (m *Manager) CloseConnection(ctx context.Context, ref Ref, tsih, cid uint16) error {
	return m.cut(ctx, ref, "connection close", fmt.Sprintf("session %d connection %d", tsih, cid), func(t *target.Target) error { return t.CloseConnection(tsih, cid) })
}

// cut ends something of a session. It changes nothing that is set, and so waits for no turn.
func (m *Manager) cut(ctx context.Context, ref Ref, op, what string, do func(*target.Target) error) (err error) {
	d := deed{op: op, target: ref.Name, lun: -1, what: what}
	defer func() { m.tell(ctx, d, false, err) }()
	e, err := m.find(ref)
	if err != nil {
		return err
	}
	d.target = e.name
	m.mu.RLock()
	live := e.live
	m.mu.RUnlock()
	if live == nil {
		return noTarget(ref)
	}
	return coded(do(live), Internal)
}
