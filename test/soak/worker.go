package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/history"
)

// Patience of an initiator.
const (
	// answerTime is after what time a command is aborted: above all delays of the stores, so that only what hangs, or waits behind that, takes so long.
	answerTime = 3 * time.Second
	// controlTime is what a task management function, a NOP or a logout may take on a busy machine before that is a violation.
	controlTime = 30 * time.Second
	// loginTime is how long an initiator may be kept out, restarts of lunard included.
	loginTime = 90 * time.Second
	// loginPause is between two attempts.
	loginPause = 30 * time.Millisecond
	// maxOrphans is how many tasks a session may have that others took away, before it is replaced.
	maxOrphans = 8
)

// A worker is one initiator.
type worker struct {
	id     uint32
	run    *run
	target int
	disks  []*disk
	plan   *plan
	offers *rand.Rand // of login parameters, apart from plan: how often it logs in depends on timing

	s       *initiator.Session
	orphans int
	cause   error // the first violation
}

// keep remembers the first violation.
func (w *worker) keep(err error) {
	if err != nil && w.cause == nil {
		w.cause = err
	}
}

// work does one step after another until ctx ends, then logs out.
func (w *worker) work(ctx context.Context) error {
	if err := w.login(ctx); err != nil {
		return w.fate(ctx, err)
	}
	for ctx.Err() == nil && w.cause == nil {
		s := w.plan.next()
		w.step(ctx, &s)
		if w.cause == nil && (w.s.Err() != nil || w.orphans > maxOrphans) {
			w.s.Close()
			w.keep(w.fate(ctx, w.login(ctx)))
		}
	}
	if w.cause == nil && w.s.Err() == nil {
		lctx, cancel := context.WithTimeout(context.Background(), controlTime)
		defer cancel()
		if err := w.s.Logout(lctx); err != nil && lctx.Err() != nil {
			w.keep(fmt.Errorf("initiator %d: logout: %w", w.id, err))
		}
	}
	w.s.Close()
	return w.cause
}

// fate is err, but for what the end of the run brings.
func (w *worker) fate(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("initiator %d: %w", w.id, err)
}

func (w *worker) options() initiator.Options {
	p := initiator.DefaultOffer()
	r := w.offers
	p.InitialR2T, p.ImmediateData = r.IntN(2) == 0, r.IntN(2) == 0
	p.FirstBurstLength = []uint32{512, 8 << 10, 64 << 10, 256 << 10}[r.IntN(4)]
	p.MaxBurstLength = max(p.FirstBurstLength, []uint32{16 << 10, 256 << 10, 1 << 20}[r.IntN(3)])
	p.MaxRecvDataSegmentLength = []uint32{4 << 10, 8 << 10, 256 << 10}[r.IntN(3)]
	p.MaxOutstandingR2T = uint16(1 + r.IntN(8))
	p.HeaderDigest, p.DataDigest = r.IntN(2) == 0, r.IntN(2) == 0
	p.TaskReporting = login.TaskReporting(r.IntN(int(login.ReportFastAbort) + 1))
	p.ProtocolLevel = uint8(1 + r.IntN(2)) // 2: with the functions of RFC 7144
	return initiator.Options{Portal: w.run.portal(), TargetName: daemon.Prefix + targetName(w.target), ISID: [6]byte{0x80, 0, 0, 0, 0, byte(w.id)},
		InitiatorName: fmt.Sprintf("iqn.2026-11.io.lunar:soak-initiator%d", w.id), Offer: &p}
}

// login opens a session in the place of the one before, if there is one, and makes an end of what that has lost. The error is a violation, unless ctx has ended.
func (w *worker) login(ctx context.Context) error {
	end := time.Now().Add(loginTime)
	for {
		s, err := initiator.Login(ctx, w.options())
		if err == nil {
			return w.enter(ctx, s)
		}
		var v *initiator.ViolationError
		if ctx.Err() != nil || errors.As(err, &v) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("no login within %v: %w", loginTime, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(loginPause):
		}
	}
}

// enter makes s the worker's session: the one before is over, so nothing that it lost takes effect any more.
func (w *worker) enter(ctx context.Context, s *initiator.Session) error {
	w.run.counts.logins.Add(1)
	w.s, w.orphans = s, 0
	for _, v := range w.run.layout.volumes {
		if err := v.h.Settle(w.id); err != nil {
			return err
		}
	}
	for _, d := range w.disks {
		for range 4 { // unit attentions
			res, err := w.simple(ctx, d, initiator.TestUnitReady(), nil)
			if err != nil {
				return w.broken(err)
			}
			if res.Status == sam.Good {
				break
			}
		}
		if err := w.unregister(ctx, d); err != nil { // of a step that was cut short
			return w.broken(err)
		}
	}
	return nil
}

// simple runs a command that moves no blocks. One without an answer, which a reset by another initiator may have taken away, costs the session.
func (w *worker) simple(ctx context.Context, d *disk, b, data []byte) (initiator.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	res, err := w.s.Command(ctx, d.lun, b, data, 0)
	if err != nil {
		w.s.Close()
	}
	return res, err
}

// broken is err if that is a violation of the protocol: every other end of a session is part of the load.
func (w *worker) broken(err error) error {
	var v *initiator.ViolationError
	var r *initiator.RejectError
	if errors.As(err, &v) || errors.As(err, &r) {
		return err
	}
	return nil
}

// step does one step.
func (w *worker) step(ctx context.Context, s *step) {
	d := w.disks[s.disk]
	switch s.kind {
	case reserve, persistent, preempt:
		if !w.before(ctx, s, d) {
			return
		}
	}
	var fl []*flight
	for i := range s.cmds {
		fl = append(fl, w.launch(&s.cmds[i]))
		if w.cause != nil {
			return
		}
	}
	switch s.kind {
	case abortOne, abortAll, setFn, cut, reinstate:
		w.await(fl[:s.after])
		w.interrupt(ctx, s, fl)
	case ping:
		w.control(func(ctx context.Context) error { _, err := w.s.Ping(ctx, []byte("soak")); return err })
	}
	w.await(fl)
	w.end(fl)
	switch s.kind {
	case reserve, persistent, preempt:
		w.behind(ctx, s, d)
	case relogin:
		w.control(w.s.Logout)
		w.s.Close()
	}
	if err := w.s.Err(); err != nil {
		w.keep(w.fate(ctx, w.broken(err)))
	}
}

// control runs what may not take long. That the session ends meanwhile is part of the load.
func (w *worker) control(f func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), controlTime)
	defer cancel()
	if err := f(ctx); err != nil && ctx.Err() != nil && w.s.Err() == nil {
		w.keep(fmt.Errorf("initiator %d: no answer within %v: %w", w.id, controlTime, err))
	}
}

// await waits until the flights have ended, and aborts what takes too long.
func (w *worker) await(fl []*flight) {
	timer := time.NewTimer(answerTime)
	defer timer.Stop()
	for _, f := range fl {
		if f.over {
			continue
		}
		select {
		case <-f.task.Done():
			w.finish(f)
			continue
		case <-timer.C:
			timer.Reset(0) // those behind it have had their time too
		}
		if !f.done() {
			w.run.counts.slow.Add(1)
			w.abort(f)
		}
	}
}

// finish takes the end of a flight whose task has ended.
func (w *worker) finish(f *flight) {
	if f.over {
		return
	}
	res, err := f.task.Wait(context.Background())
	w.run.counts.commands.Add(1)
	w.keep(f.ended(res, err))
}

// end takes up what has ended meanwhile; nothing may be left then.
func (w *worker) end(fl []*flight) {
	for _, f := range fl {
		if f.over {
			continue
		}
		if f.done() {
			w.finish(f)
			continue
		}
		_ = f.lost() // a session that is gone, or about to be
		w.s.Close()
	}
}

// abort sends ABORT TASK.
func (w *worker) abort(f *flight) {
	var resp pdu.TMFResponse
	var err error
	if _, _, sent := f.task.Tag(); !sent {
		return // behind the command window
	}
	w.control(func(ctx context.Context) error {
		resp, err = w.s.TaskManagement(ctx, sam.AbortTask, f.d.lun, f.task)
		return err
	})
	w.run.counts.aborts.Add(1)
	if err != nil {
		return
	}
	switch {
	case f.done():
		w.finish(f)
	case resp == pdu.TaskDoesNotExist && f.d.disturbed(f.since):
		// Taken away for another initiator, which is not told (SAM-5, with TAS 0).
		f.over = true
		w.orphans++
		w.run.counts.orphans.Add(1)
		w.keep(f.each((*history.Op).Failed))
	default:
		w.keep(fmt.Errorf("initiator %d: %s on %s was never answered, and ABORT TASK is answered %v", w.id, f.what, f.d.path, resp))
	}
}

// interrupt disturbs a batch.
func (w *worker) interrupt(ctx context.Context, s *step, fl []*flight) {
	switch s.kind {
	case abortOne:
		if f := fl[len(fl)-1]; !f.over {
			w.abort(f)
		}
	case abortAll:
		for _, f := range fl {
			if !f.over {
				w.abort(f)
			}
		}
	case setFn:
		w.function(s.fn, w.disks[s.disk])
	case cut:
		w.run.counts.cuts.Add(1)
		w.s.Close()
	case reinstate:
		next, err := initiator.Login(ctx, w.options())
		if err != nil {
			return // lunard is down, or was asked to end
		}
		w.run.counts.reinstated.Add(1)
		w.replaced()
		for _, f := range fl {
			if !f.over {
				w.finish(f)
			}
		}
		w.keep(w.fate(ctx, w.enter(ctx, next)))
	}
}

// replaced waits until the session, in whose place another one is, has been closed from the other side.
func (w *worker) replaced() {
	old := w.s
	defer old.Close()
	w.control(func(ctx context.Context) error {
		_, err := old.Ping(ctx, []byte("anybody there?"))
		if err == nil {
			w.keep(fmt.Errorf("initiator %d: a session answers after another one was opened in its place", w.id))
		}
		return err
	})
}

// function sends a function for more than one task.
func (w *worker) function(fn sam.TMF, d *disk) {
	var over []func()
	for _, o := range w.disks {
		if o == d || fn == sam.TargetWarmReset || fn == sam.TargetColdReset {
			over = append(over, o.disturb())
		}
	}
	w.control(func(ctx context.Context) error {
		_, err := w.s.TaskManagement(ctx, fn, d.lun, nil)
		return err
	})
	for _, f := range over {
		f()
	}
	w.run.counts.resets.Add(1)
}
