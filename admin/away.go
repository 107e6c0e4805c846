package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/target"
)

// LUNs whose volume cannot be opened. Where that is to be survived (spec.LUN.Away) the LUN is there without it, NOT READY, and the volume is tried again,
// with growing pauses. Opening may take its time: it holds nobody's turn.

type awayKey struct{}

// ifAway has LUNs that say nothing about it do so with a volume that cannot be opened.
func ifAway(ctx context.Context, away string) context.Context {
	return context.WithValue(ctx, awayKey{}, away)
}

// survives reports whether l is to be there without its volume, which could not be opened for err. What no engine's return could mend is an error in any case
// where somebody asks for the LUN; what was saved could be opened once.
func survives(ctx context.Context, l *spec.LUN, err error, loading bool) bool {
	def, _ := ctx.Value(awayKey{}).(string)
	if CodeOf(err) != OpenFailed || cmp.Or(l.Away, def, spec.AwayFail) != spec.AwayOffline {
		return false
	}
	switch backstore.ClassOf(err) {
	case backstore.ClassUnsupported, backstore.ClassRange:
		return loading
	}
	return true
}

// A retry is when a volume is tried again.
type retry struct {
	tries int
	next  time.Time
	try   *try // that is under way; nil: none
	held  bool // nobody tries: an administrator has it opened
	never bool // it is not: whoever has shut us out is to keep it
}

// A try is a volume being tried again.
type try struct {
	stopped context.Context // ended when the try is to end
	stop    context.CancelFunc
	ended   chan struct{} // closed when it has
}

// prepareFaulty makes a LUN whose volume could not be opened: a disk without a store, which is tried again.
func (m *Manager) prepareFaulty(e *entry, live *target.Target, l *spec.LUN, why error) (*pending, error) {
	m.log.Warn("a volume could not be opened; the LUN is there and NOT READY until it can be", "target", e.name, "lun", l.Number, "error", why)
	p := &pending{m: m, d: &disk{e: e, lun: l.Number, faulty: true}, live: live}
	if l.Identity == "" && !l.TgtNaming {
		l.Identity = cmp.Or(p.passingName(m.volumeKey(l.Volume)), rand.Text()) // what the volume would say of itself is not to be had
	}
	p.d.identity = l.Identity
	cfg := m.diskConfig(e, l)
	cfg.Away = !l.Offline
	var err error
	if p.put, err = live.PrepareDisk(l.Number, nil, cfg, target.PutOptions{}); err != nil {
		return nil, coded(err, Invalid)
	}
	m.fault(e, l.Number, why)
	return p, nil
}

// fault notes why the volume of a LUN could not be opened, and when it is tried again; nil: it is open, or not to be.
func (m *Manager) fault(e *entry, lun uint16, why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if why == nil {
		delete(e.faults, lun)
		delete(e.retries, lun)
		return
	}
	if e.faults == nil {
		e.faults, e.retries = map[uint16]string{}, map[uint16]*retry{}
	}
	r := e.retries[lun]
	if r == nil {
		r = &retry{}
		e.retries[lun] = r
	}
	e.faults[lun] = why.Error()
	r.never = backstore.ClassOf(why) == backstore.ClassFenced
	r.next = time.Now().Add(m.pause(r.tries))
	r.tries++
}

// pause is how long a volume is left alone after so many tries.
func (m *Manager) pause(tries int) time.Duration {
	return min(m.cfg.RetryVolumes<<min(tries, 20), max(m.cfg.RetryMost, m.cfg.RetryVolumes))
}

// retryVolumes tries volumes again that could not be opened, MaxOpening at a time.
func (m *Manager) retryVolumes() {
	defer m.work.Done()
	ctx, cancel := context.WithCancel(WithCaller(context.Background(), Caller{Face: "retry", UID: -1}))
	defer cancel()
	tick := time.NewTicker(max(m.cfg.RetryVolumes/2, time.Millisecond))
	defer tick.Stop()
	room := make(chan struct{}, m.cfg.MaxOpening)
	for {
		select {
		case <-m.ended:
			return
		case now := <-tick.C:
			for _, d := range m.dueVolumes(now, cap(room)-len(room)) {
				room <- struct{}{}
				m.work.Add(1)
				go func() {
					defer m.work.Done()
					m.retryVolume(ctx, d)
					<-room
				}()
			}
		}
	}
}

// dueVolumes lists LUNs whose volumes are to be tried again, those that have waited for longest first, and at most so many.
func (m *Manager) dueVolumes(now time.Time, most int) (list []*disk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.byTID {
		for lun, r := range e.retries {
			if e.spec != nil && r.try == nil && !r.held && !r.never && !r.next.After(now) {
				list = append(list, &disk{e: e, lun: lun, faulty: true})
			}
		}
	}
	slices.SortFunc(list, func(a, b *disk) int {
		return cmp.Or(a.e.retries[a.lun].next.Compare(b.e.retries[b.lun].next), cmp.Compare(a.e.tid, b.e.tid), cmp.Compare(a.lun, b.lun))
	})
	list = list[:min(len(list), most)]
	for _, d := range list {
		d.try = &try{ended: make(chan struct{})}
		d.try.stopped, d.try.stop = context.WithCancel(context.Background())
		d.e.retries[d.lun].try = d.try
	}
	return list
}

// retryVolume tries one.
func (m *Manager) retryVolume(ctx context.Context, d *disk) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.try.stopped, cancel)()
	err := m.reopen(ctx, d)
	m.mu.Lock()
	if r := d.e.retries[d.lun]; r != nil && r.try == d.try {
		r.try = nil
	}
	m.mu.Unlock()
	d.try.stop()
	close(d.try.ended)
	if err != nil {
		m.log.Debug("a volume still cannot be opened", "target", d.e.name, "lun", d.lun, "error", err)
		return
	}
	m.log.Info("a volume could be opened after all", "target", d.e.name, "lun", d.lun)
	m.hub.publish(Event{Time: time.Now(), Kind: LUNChanged, Target: d.e.name, LUN: int(d.lun), Detail: "its volume could be opened", Caller: CallerOf(ctx).String()})
}

// holdRetries has nobody else try the volume of a LUN until goOn is called, and ends a try that is under way: two openings at once would find each other in
// the way, or shut each other out.
func (m *Manager) holdRetries(ctx context.Context, e *entry, lun uint16) (goOn func(), err error) {
	m.mu.Lock()
	r := e.retries[lun]
	var t *try
	if r != nil {
		r.held, t = true, r.try
	}
	m.mu.Unlock()
	goOn = func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if r != nil {
			r.held = false
		}
	}
	if t == nil {
		return goOn, nil
	}
	t.stop()
	select {
	case <-t.ended:
		return goOn, nil
	case <-ctx.Done():
		goOn()
		return nil, &Error{Code: OpenFailed, Err: fmt.Errorf("target %s LUN %d: its volume is being opened, and that does not end: %w", e.name, lun, context.Cause(ctx)), Hint: "try again later"}
	}
}

// reopen opens the volume of a LUN that is there without it. What can take long, it does without the turn.
func (m *Manager) reopen(ctx context.Context, d *disk) error {
	l, err := m.awayLUN(d.e, d.lun)
	if err != nil {
		return err
	}
	var st backstore.Store
	if !m.opened(l) {
		if st, err = m.openBeside(ctx, d, l); err != nil {
			if m.faulty(d.e, d.lun) {
				m.fault(d.e, d.lun, err)
			}
			return err
		}
		defer m.release(d) // it is open until then, and the LUN does not have it yet
	}
	ctx, stop := context.WithTimeout(ctx, m.cfg.CallTimeout)
	defer stop()
	e, err := m.hold(ctx, Ref{TID: d.e.tid})
	if err != nil {
		m.closeStore(d, st)
		return err
	}
	defer e.turn.give()
	now, err := m.awayLUN(e, d.lun)
	if err != nil || e != d.e || now.Volume != l.Volume || now.ReadOnly != l.ReadOnly {
		m.closeStore(d, st)
		return cmp.Or(err, error(Errorf(NoLUN, "%s is another one by now", d)))
	}
	if st == nil {
		return m.rejoin(ctx, e, now)
	}
	t := m.specOf(e)
	return m.swapLUN(ctx, e, &t, now, now, &swap{opened: st})
}

// awayLUN is what is set of a LUN that is there without its volume.
func (m *Manager) awayLUN(e *entry, lun uint16) (*spec.LUN, error) {
	if m.published(e) == nil || !m.faulty(e, lun) {
		return nil, noLUN(e, lun)
	}
	t := m.specOf(e)
	i, there := place(&t, lun)
	if !there {
		return nil, noLUN(e, lun)
	}
	l := t.LUNs[i].Clone()
	return &l, nil
}

// openBeside opens the volume of d, and enters d among those who have it.
func (m *Manager) openBeside(ctx context.Context, d *disk, l *spec.LUN) (backstore.Store, error) {
	u, err := backstore.ParseURI(l.Volume)
	if err != nil {
		return nil, err
	}
	d.key = m.cfg.Registry.Key(u)
	if _, err := m.claim(d, nil); err != nil {
		return nil, err
	}
	st, err := m.openVolume(ctx, u, d, l, false)
	if err != nil {
		m.release(d)
	}
	return st, err
}

// opened reports whether another LUN has the volume open.
func (m *Manager) opened(l *spec.LUN) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.ContainsFunc(m.volumes[m.volumeKey(l.Volume)], func(o *disk) bool { return o.there && !o.faulty && !o.going })
}

// rejoin makes a LUN that is there without its volume a further way to the logical unit that has it by now.
func (m *Manager) rejoin(ctx context.Context, e *entry, l *spec.LUN) error {
	if err := e.live.RemoveLUN(ctx, l.Number, true); err != nil {
		return coded(err, Internal)
	}
	p, err := m.prepare(ctx, e, e.live, l, true)
	if err != nil {
		p, again := m.prepareFaulty(e, e.live, l, err)
		if again != nil {
			return again
		}
		p.commit()
		return err
	}
	p.commit()
	m.fault(e, l.Number, nil)
	return nil
}
