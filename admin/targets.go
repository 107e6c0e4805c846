package admin

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
)

// AddTarget is Service's.
func (m *Manager) AddTarget(ctx context.Context, t spec.Target) (spec.Target, error) {
	return m.addTarget(ctx, t, false, nil)
}

func (m *Manager) addTarget(ctx context.Context, t spec.Target, passing bool, lead *entry) (out spec.Target, err error) {
	d := deed{op: "target add", kind: TargetAdded, target: t.Name, lun: -1}
	defer func() { m.tell(ctx, d, false, err) }()
	ctx, done, err := m.begin(ctx)
	if err != nil {
		return out, err
	}
	defer done()
	t = t.Clone()
	slices.SortFunc(t.LUNs, func(a, b spec.LUN) int { return int(a.Number) - int(b.Number) })
	if err := t.CheckTarget(nil); err != nil {
		return out, invalid(err)
	}
	if len(t.LUNs) > m.cfg.MaxLUNs {
		return out, Errorf(TooMany, "target %s: %d LUNs, at most %d are allowed", t.Name, len(t.LUNs), m.cfg.MaxLUNs)
	}
	m.mu.RLock()
	if t.NopInterval == 0 && t.NopCount == 0 {
		t.NopInterval, t.NopCount = m.system.NopInterval, m.system.NopCount
	}
	m.mu.RUnlock()
	e, err := m.reserve(&t, passing)
	if err != nil {
		return out, err
	}
	defer e.turn.give()
	e.lead = lead
	if err := m.make(ctx, e, &t, false); err != nil {
		m.unreserve(e)
		return out, err
	}
	return m.specOf(e), nil
}

// reserve takes a name and a TID, and the turn of the target that is to have them.
func (m *Manager) reserve(t *spec.Target, passing bool) (*entry, error) {
	norm, _, err := spec.NormalizeName(t.Name)
	if err != nil {
		return nil, invalid(err)
	}
	e := &entry{name: t.Name, norm: norm, passing: passing, turn: newTurn("target " + t.Name), disks: map[uint16]*disk{}}
	e.turn.held <- struct{}{} // nobody else knows of it yet
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closing:
		return nil, &Error{Code: ShuttingDown, Text: "the daemon is shutting down"}
	case m.byName[norm] != nil:
		return nil, Errorf(TargetExists, "target %s exists already, with TID %d", t.Name, m.byName[norm].tid)
	case t.TID != 0 && m.byTID[t.TID] != nil:
		return nil, Errorf(TargetExists, "target %s: TID %d is that of target %s", t.Name, t.TID, m.byTID[t.TID].name)
	case len(m.byTID) >= m.cfg.MaxTargets:
		return nil, Errorf(TooMany, "target %s: there are %d targets, the most that are allowed", t.Name, len(m.byTID))
	}
	if t.TID == 0 {
		t.TID = m.nextTIDLocked()
	}
	e.tid = t.TID
	m.byTID[e.tid], m.byName[norm] = e, e
	return e, nil
}

// nextTIDLocked is the number behind the highest one: that of a target that was removed is not given to another at once.
func (m *Manager) nextTIDLocked() int {
	most := 0
	for tid := range m.byTID {
		most = max(most, tid)
	}
	if most < spec.MaxTID {
		return most + 1
	}
	for tid := 1; ; tid++ {
		if m.byTID[tid] == nil {
			return tid
		}
	}
}

func (m *Manager) unreserve(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.spec, e.live = nil, nil
	delete(m.byTID, e.tid)
	delete(m.byName, e.norm)
}

// make makes a target that has been reserved. Until it is saved nobody finds it: it admits nobody. loading leaves out what is saved
// already, and puts up with volumes that cannot be opened.
func (m *Manager) make(ctx context.Context, e *entry, t *spec.Target, loading bool) error {
	binds := len(t.Auth.Incoming) != 0 || t.Auth.Outgoing != ""
	if binds {
		if err := m.accountsTurn.take(ctx, m.cfg.MaxWaiting); err != nil {
			return err
		}
		defer m.accountsTurn.give()
	}
	acc := m.accountsNow()
	if err := checkAuth(e, t.Auth, &acc); err != nil {
		return err
	}
	if err := m.checkLive(t, &acc); err != nil {
		return err
	}
	hidden := m.liveConfig(t, &acc)
	hidden.Access = &target.Access{}
	var err error
	if hidden.LoopOf, err = m.loopFor(e, t); err != nil {
		return err
	}
	live, err := m.srv.AddTarget(t.Name, hidden)
	if err != nil {
		return coded(err, Internal)
	}
	var list []*pending
	undo := func() {
		abortAll(list)
		clear(e.disks)
		m.end(live)
	}
	for i := range t.LUNs {
		l := &t.LUNs[i]
		p, err := m.prepare(ctx, e, live, l, false)
		if err != nil && survives(ctx, l, err, loading) {
			p, err = m.prepareFaulty(e, live, l, err)
		}
		if err != nil {
			undo()
			return err
		}
		list = append(list, p)
	}
	var bound *accounts // with the turn alone: without it others may have changed accounts since we looked
	if binds {
		n := acc.with(e.tid, t.Auth)
		bound = &n
	}
	if !loading {
		set, err := m.targetChange(e, nil, t, &acc, bound)
		if err == nil {
			err = m.save(set)
		}
		if err != nil {
			undo()
			return err
		}
	}
	for _, p := range list {
		p.commit()
	}
	m.publish(e, t, bound, live)
	m.apply(e)
	return nil
}

// end removes a target that nobody could use, or that has been left.
func (m *Manager) end(live *target.Target) {
	ctx, cancel := context.WithTimeout(context.Background(), m.cfg.CloseTimeout)
	defer cancel()
	if err := live.Remove(ctx, true); err != nil {
		m.log.Warn("a target did not end in order", "target", live.Name(), "error", err)
	}
}

// publish makes t what is set, and who is bound with it if acc is not nil.
func (m *Manager) publish(e *entry, t *spec.Target, acc *accounts, live *target.Target) {
	n := t.Clone()
	n.Auth = spec.Auth{}
	m.mu.Lock()
	defer m.mu.Unlock()
	e.spec = &n
	if live != nil {
		e.live = live
	}
	if acc != nil {
		m.accounts = *acc
	}
}

// EditTarget is Service's.
func (m *Manager) EditTarget(ctx context.Context, ref Ref, edit func(*spec.Target) error) (err error) {
	d, same := deed{op: "target change", kind: TargetChanged, target: ref.Name, lun: -1}, false
	defer func() { m.tell(ctx, d, same, err) }()
	ctx, done, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	e, err := m.hold(ctx, ref)
	if err != nil {
		return err
	}
	defer e.turn.give()
	d.target = e.name
	cur, next, err := m.edited(e, edit)
	if err != nil {
		return err
	}
	binds := !reflect.DeepEqual(cur.Auth, next.Auth)
	if binds {
		if err := m.accountsTurn.take(ctx, m.cfg.MaxWaiting); err != nil {
			return err
		}
		defer m.accountsTurn.give()
		// An account may have been removed while we waited, and its bindings with it.
		if cur, next, err = m.edited(e, edit); err != nil {
			return err
		}
	}
	d.detail = spec.Changes(cur, next)
	if same = d.detail == ""; same {
		return nil
	}
	acc := m.accountsNow()
	var bound *accounts
	if binds {
		if err := checkAuth(e, next.Auth, &acc); err != nil {
			return err
		}
		n := acc.with(e.tid, next.Auth)
		bound = &n
	}
	if err := next.CheckTarget(nil); err != nil {
		return invalid(err)
	}
	if err := m.checkLive(&next, &acc); err != nil {
		return err
	}
	set, err := m.targetChange(e, &cur, &next, &acc, bound)
	if err == nil {
		err = m.save(set)
	}
	if err != nil {
		return err
	}
	m.publish(e, &next, bound, nil)
	m.apply(e)
	return nil
}

// edited is a target as it is, and as an edit wants it.
func (m *Manager) edited(e *entry, edit func(*spec.Target) error) (cur, next spec.Target, err error) {
	cur = m.specOf(e)
	next = cur.Clone()
	if err := edit(&next); err != nil {
		return cur, next, invalid(err)
	}
	next = next.Clone()
	if next.TID != cur.TID || next.Name != cur.Name {
		return cur, next, Errorf(Invalid, "target %s: its name and TID stay", cur.Name)
	}
	if !reflect.DeepEqual(next.LUNs, cur.LUNs) {
		return cur, next, Errorf(Invalid, "target %s: its LUNs are changed one by one", cur.Name)
	}
	return cur, next, nil
}

// targetChange is what has to be saved so that a target that was cur, or was not there, is next, and nil: gone. bound are the accounts
// where they change.
func (m *Manager) targetChange(e *entry, cur, next *spec.Target, acc, bound *accounts) (map[string][]byte, error) {
	if m.cfg.State == nil || e.passing {
		return nil, nil
	}
	set := map[string][]byte{}
	if next == nil {
		set[targetKey(e.tid)] = nil
	} else if n := unbound(next); cur == nil || !reflect.DeepEqual(unbound(cur), n) {
		b, err := encode(n)
		if err != nil {
			return nil, err
		}
		set[targetKey(e.tid)] = b
	}
	if bound != nil && !reflect.DeepEqual(acc.bound[e.tid], bound.bound[e.tid]) {
		b, err := m.encodeAccounts(bound)
		if err != nil {
			return nil, err
		}
		set[keyAccounts] = b
	}
	return set, nil
}

func unbound(t *spec.Target) spec.Target {
	n := t.Clone()
	n.Auth = spec.Auth{}
	return n
}

// RemoveTarget is Service's.
func (m *Manager) RemoveTarget(ctx context.Context, ref Ref, force bool) (err error) {
	d := deed{op: "target remove", kind: TargetRemoved, target: ref.Name, lun: -1}
	if force {
		d.what = "force"
	}
	defer func() { m.tell(ctx, d, false, err) }()
	ctx, done, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	e, err := m.hold(ctx, ref)
	if err != nil {
		return err
	}
	defer e.turn.give()
	d.target = e.name
	leaving, err := e.live.PrepareRemove(ctx, force) // may wait for sessions that end: accounts do not wait with it
	if err != nil {
		return coded(err, Internal)
	}
	stay, err := m.quit(ctx, slices.Collect(maps.Values(e.disks)), force)
	if err != nil {
		leaving.Abort()
		return err
	}
	if err := m.accountsTurn.take(ctx, m.cfg.MaxWaiting); err != nil {
		stay()
		leaving.Abort()
		return err
	}
	defer m.accountsTurn.give()
	acc := m.accountsNow()
	bound := acc.with(e.tid, spec.Auth{})
	set, err := m.targetChange(e, nil, nil, &acc, &bound)
	if err == nil {
		err = m.save(set)
	}
	if err != nil {
		stay()
		leaving.Abort()
		return err
	}
	live := e.live
	m.mu.Lock()
	m.accounts = bound
	m.mu.Unlock()
	m.unpublish(e)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.cfg.CloseTimeout)
	defer cancel()
	if err := leaving.Commit(closing); err != nil && !errors.Is(err, target.ErrNoTarget) {
		m.log.Warn("a target was removed, but not everything behind it could be closed in order", "target", live.Name(), "error", err)
	}
	for _, d := range e.disks {
		m.release(d)
	}
	clear(e.disks)
	m.unreserve(e)
	return nil
}

// unpublish takes a target away from who asks. Its name, TID and volumes are still taken.
func (m *Manager) unpublish(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range e.disks {
		d.there = false
	}
	e.spec, e.faults, e.retries = nil, nil, nil
}

// DrainTarget is Service's.
func (m *Manager) DrainTarget(ctx context.Context, ref Ref) (err error) {
	d := deed{op: "target drain", kind: TargetChanged, target: ref.Name, lun: -1, detail: "drained"}
	defer func() { m.tell(ctx, d, false, err) }()
	if err := m.EditTarget(ctx, ref, func(t *spec.Target) error { t.Offline = true; return nil }); err != nil {
		return err
	}
	// The time that initiators have is the caller's to say, not CallTimeout's; without a word it is that.
	if _, told := ctx.Deadline(); !told {
		bounded, done, err := m.begin(ctx)
		if err != nil {
			return err
		}
		defer done()
		ctx = bounded
	}
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
	if err := live.Drain(ctx); err != nil {
		m.log.Info("a target was drained; who did not log out was cut off", "target", e.name, "error", err)
	}
	return nil
}
