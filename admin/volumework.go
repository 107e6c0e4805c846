package admin

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
)

// specOfEntry is what was published of a target at some moment.
type specOfEntry struct {
	e    *entry
	spec *spec.Target
}

// A hold says what else may be done with a volume meanwhile.
type hold uint8

const (
	reading  hold = iota + 1 // others read it, one changes it, it is a LUN
	changing                 // others read it, it is a LUN
	whole                    // nothing
)

// with reports whether the two go together.
func (h hold) with(o hold) bool { return h == reading && o < whole || o == reading && h < whole }

// A volumeWork is one operation on volumes. Nothing of it needs a target's turn.
type volumeWork struct {
	what   string // "a snapshot is being taken of it"
	holds  []held
	begun  time.Time
	caller string
	cancel context.CancelCauseFunc
	ended  chan struct{} // closed when the driver has come back
	via    *disk         // the one that opened the store that takes part; nil: none does. Set as it is entered.

	yielding []*disk // of LUNs that are offline, and have the volume: set as it is entered
	yielded  []*disk // those whose volume has been closed
}

// held is a volume that is held.
type held struct {
	n    *named
	key  string
	hold hold
	made bool // it is to be there afterwards, and not before
	// yields is set where a LUN that is offline gives it away meanwhile.
	yields bool
	// shut is set where nobody opens it meanwhile, though it may be open.
	shut bool
}

func (w *volumeWork) String() string {
	return fmt.Sprintf("%s (since %s, by %s)", w.what, w.begun.Format(time.TimeOnly), w.caller)
}

// shutLocked is what keeps a volume from being opened, or nil.
func (m *Manager) shutLocked(key string) *volumeWork {
	for w := range m.doing {
		if slices.ContainsFunc(w.holds, func(h held) bool { return h.key == key && (h.hold == whole || h.shut) }) {
			return w
		}
	}
	return nil
}

// enter lets w begin, unless something stands against it. store asks for the open store of its first volume, if there is one.
func (m *Manager) enter(w *volumeWork, store bool) error {
	m.mu.Lock()
	err := m.enterLocked(w, store)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	// A LUN whose volume could not be opened has it set all the same. None can be added behind our back any more.
	var luns map[string][]VolumeLUN
	for _, h := range w.holds {
		if h.hold != whole {
			continue
		}
		if luns == nil {
			luns = m.lunsByVolume()
		}
		for _, l := range luns[h.key] {
			if h.yields && l.Offline {
				continue
			}
			m.leave(w)
			return h.inUse(fmt.Sprintf("target %s LUN %d", l.Target, l.LUN), l.TID, l.LUN)
		}
	}
	return nil
}

func (m *Manager) enterLocked(w *volumeWork, store bool) error {
	if m.closing {
		return &Error{Code: ShuttingDown, Text: "the daemon is shutting down"}
	}
	for o := range m.doing {
		for _, h := range w.holds {
			if slices.ContainsFunc(o.holds, func(x held) bool { return x.key == h.key && !x.hold.with(h.hold) }) {
				return &Error{Code: VolumeBusy, Text: fmt.Sprintf("%s: %s", h.n, o), Hint: "try again when it is done"}
			}
		}
	}
	if len(m.doing) >= m.cfg.MaxVolumeWork {
		return &Error{Code: TooMany, Text: fmt.Sprintf("%s: %d operations on volumes are under way, the most that are allowed", w.holds[0].n, len(m.doing)), Hint: "try again later"}
	}
	for _, h := range w.holds {
		if h.hold != whole {
			continue
		}
		for _, d := range m.volumes[h.key] {
			if !h.yields {
				return h.inUse(d.String(), d.e.tid, d.lun)
			}
			if err := m.yieldsLocked(h, d); err != nil {
				return err
			}
			w.yielding = append(w.yielding, d)
		}
	}
	if store {
		for _, d := range m.volumes[w.holds[0].key] {
			if !d.there || d.going {
				return &Error{Code: VolumeBusy, Text: fmt.Sprintf("%s: it is being opened or closed for %s", w.holds[0].n, d), Hint: "try again"}
			}
			w.via = d.unit
		}
		// A store that is opened now would have to take part, and does not know of it.
		w.holds[0].shut = w.via == nil
	}
	m.doing[w] = struct{}{}
	return nil
}

func (m *Manager) leave(w *volumeWork) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.doing, w)
}

// inUse refuses what wants a volume that is no LUN.
func (h held) inUse(who string, tid int, lun uint16) error {
	e := &Error{Code: VolumeInUse, Text: fmt.Sprintf("%s is %s", h.n, who), Hint: fmt.Sprintf("take the LUN away first: lunarctl lun remove %d %d", tid, lun)}
	if h.made {
		e.Code, e.Hint = VolumeExists, "give it another name"
	}
	return e
}

// volumeWork does something with volumes, and waits for it: do gets the store that takes part, or nil. A driver that does not come back in time when its
// work was cancelled is left to itself; its volumes stay held.
func (m *Manager) volumeWork(ctx context.Context, w *volumeWork, store bool, p backstore.Progress, do func(ctx context.Context, st backstore.Store, p backstore.Progress) error) error {
	ctx, done := context.WithTimeoutCause(ctx, m.cfg.VolumeTimeout, fmt.Errorf("not done within %v", m.cfg.VolumeTimeout))
	defer done()
	ctx, w.cancel = context.WithCancelCause(ctx)
	defer w.cancel(nil)
	w.begun, w.caller, w.ended = time.Now(), CallerOf(ctx).String(), make(chan struct{})
	if err := m.enter(w, store); err != nil {
		return err
	}
	var st backstore.Store
	if w.via != nil {
		st = w.via.store
	}
	g := &gate{to: p}
	result := make(chan error, 1)
	go func() {
		defer close(w.ended)
		err := m.guarded(func() error { return do(ctx, st, g.report) })
		m.giveBack(ctx, w)
		m.leave(w) // before anybody hears of it, and goes on with the next
		result <- err
	}()
	err := m.outcome(ctx, result)
	g.shut()
	if err != nil {
		err = w.explain(ctx, err)
	}
	return err
}

// outcome is how work has ended.
func (m *Manager) outcome(ctx context.Context, result <-chan error) error {
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	late := time.NewTimer(m.cfg.UndoTimeout)
	defer late.Stop()
	select {
	case err := <-result:
		return err
	case <-late.C:
		return errStuck
	}
}

// errStuck is the outcome of work that does not end.
var errStuck = errors.New("its driver does not answer; what was begun is still being done or undone, and nothing else can be done with the volume until that has ended")

// errEnding and errForced are why work is cancelled, besides its caller's going away.
var (
	errEnding = errors.New("the daemon ends")
	errForced = errors.New("its LUN was removed by force")
)

// explain makes an *Error of how work has failed.
func (w *volumeWork) explain(ctx context.Context, err error) error {
	n := w.holds[0].n
	if ctx.Err() == nil {
		return n.volumeError(err)
	}
	cause := context.Cause(ctx)
	e := &Error{Code: Timeout, Text: fmt.Sprintf("%s: cancelled: %v", n, cause), Err: err}
	var coded *Error
	switch {
	case errors.As(cause, &coded): // a face has its reasons
		e.Code = coded.Code
	case errors.Is(cause, errEnding):
		e.Code = ShuttingDown
	case errors.Is(cause, errForced), errors.Is(cause, context.Canceled):
		e.Code = Cancelled
	}
	return e
}

// guarded makes an error of a driver's panic: it costs its call, not the daemon.
func (m *Manager) guarded(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			m.log.Warn("a fault of lunar ended what was being done with a volume", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = &Error{Code: Internal, Text: "a fault of lunar ended it", Hint: "the daemon's log has more; please report it"}
		}
	}()
	return do()
}

// A gate lets progress through until it is shut.
type gate struct {
	mu sync.Mutex
	to backstore.Progress
}

func (g *gate) report(done, total int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.to.Report(done, total)
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.to = nil
}

// quit is called before the stores of disks are closed: work that they take part in is refused to be cut off, or ended with force. Nothing more is
// begun with them, until stay is called.
func (m *Manager) quit(ctx context.Context, disks []*disk, force bool) (stay func(), err error) {
	disks = slices.DeleteFunc(disks, func(d *disk) bool { return d == nil || d.unit == nil })
	m.mu.Lock()
	var cut []*volumeWork
	for w := range m.doing {
		// A logical unit that other LUNs lead to stays, and its store with it.
		stays := func(o *disk) bool { return o.unit == w.via && !o.going && !slices.Contains(disks, o) }
		if w.via == nil || !slices.ContainsFunc(disks, func(d *disk) bool { return d.unit == w.via }) || slices.ContainsFunc(m.volumes[w.via.key], stays) {
			continue
		}
		if !force {
			m.mu.Unlock()
			return nil, &Error{Code: VolumeBusy, Text: fmt.Sprintf("%s: %s: %s", disks[0], w.holds[0].n, w), Hint: "wait for it, or cancel it; force cancels it, too"}
		}
		cut = append(cut, w)
	}
	for _, d := range disks {
		d.going = true
	}
	m.mu.Unlock()
	stay = func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, d := range disks {
			d.going = false
		}
	}
	for _, w := range cut {
		w.cancel(errForced)
	}
	for _, w := range cut {
		select {
		case <-w.ended:
		case <-ctx.Done():
			stay()
			return nil, &Error{Code: Timeout, Text: fmt.Sprintf("%s: %s, and does not end", disks[0], w), Err: context.Cause(ctx)}
		}
	}
	return stay, nil
}

// endVolumeWork cancels whatever is being done with volumes, and waits for it, not for ever. Nothing more begins: the manager is closing.
func (m *Manager) endVolumeWork() {
	m.mu.Lock()
	var list []*volumeWork
	for w := range m.doing {
		w.cancel(errEnding)
		list = append(list, w)
	}
	m.mu.Unlock()
	late := time.NewTimer(m.cfg.UndoTimeout)
	defer late.Stop()
	for _, w := range list {
		select {
		case <-w.ended:
		case <-late.C:
			m.log.Warn("what was being done with a volume does not end, and is left", "volume", w.holds[0].n.String(), "what", w.String())
			return
		}
	}
}
