package target

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A target with sessions is not removed unless forced, and goes on as before; with force nothing of it is left, and
// its name is free.
func TestRemove(t *testing.T) {
	r := newRig(t, Config{StoreCloseAfter: time.Hour}, "")
	before := resources(t)
	for _, force := range []bool{false, true} {
		tg, err := r.s.AddTarget(testTarget+"-2", TargetConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if err := tg.AddDisk(1, newStore(t, ""), scsi.DiskConfig{Identity: "second"}); err != nil {
			t.Fatal(err)
		}
		o := r.options(1)
		o.TargetName = tg.Name()
		s, err := initiator.Login(r.ctx(), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := tg.Remove(r.ctx(), false); !errors.Is(err, ErrTargetInUse) || errors.Is(err, context.DeadlineExceeded) {
			t.Fatal("removed with a session, or not refused at once:", err)
		}
		r.ready(s)
		again, err := initiator.Login(r.ctx(), o) // nobody is kept out
		if err != nil {
			t.Fatal(err)
		}
		if !force {
			if err := again.Logout(r.ctx()); err != nil {
				t.Fatal(err)
			}
		}
		if err := tg.Remove(r.ctx(), force); err != nil {
			t.Fatal(err)
		}
		if _, err := again.Ping(r.ctx(), nil); err == nil {
			t.Fatal("a session of a target that is no more")
		}
		again.Close()
		s.Close()
		wantStatus(t, r, o, pdu.TargetNotFound)
		for _, err := range []error{tg.Remove(r.ctx(), true), tg.AddDisk(2, newStore(t, ""), scsi.DiskConfig{Identity: "late"}), tg.ShareDisk(2, tg, 1)} {
			if err == nil {
				t.Fatal("something can be done with a target that is no more")
			}
		}
		if _, err := r.s.AddTarget(testTarget+"-3", TargetConfig{LoopOf: tg}); !errors.Is(err, ErrNoTarget) {
			t.Fatal("a target on a loop that has ended:", err)
		}
		if i := tg.Info(); i.Ready || len(i.Sessions)+len(i.LUNs) != 0 {
			t.Fatalf("%+v", i)
		}
	}
	leaks(t, before)
}

// A session is ending when it has logged out, or when its initiator has closed the connection, even where data that has not been read
// stands before the end.
func TestEndingSessions(t *testing.T) {
	r := newRig(t, Config{}, "")
	c := r.rawLogin(1)
	r.login(2)
	l := r.tg.l
	l.ev.Lock()
	defer l.ev.Unlock()
	ping := c.Request(pdu.OpNOPOut, true)
	if err := c.Send(ping, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.NC.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for _, se := range r.tg.sessions {
		closed := se.s.Nexus.ISID[5] == 1
		for deadline := time.Now().Add(testWait); closed && !se.ending() && time.Now().Before(deadline); runtime.Gosched() {
		}
		if se.ending() != closed {
			t.Errorf("a session whose initiator has closed its end: %v, ending: %v", closed, se.ending())
		}
	}
}

// deafLogout logs a session in and out whose initiator does not take the answer, since it reads nothing: it is ending, and does not
// end by itself.
func (r *rig) deafLogout() {
	r.t.Helper()
	c := r.rawLogin(1)
	if _, err := c.ReadCommand(lun1, initiator.TestUnitReady(), 0); err != nil {
		r.t.Fatal(err)
	}
	for range 8 { // more than the sockets hold
		if err := c.Send(c.CommandHeader(lun1, read10(0, 4096), true, false, 2<<20), nil); err != nil {
			r.t.Fatal(err)
		}
	}
	h := c.Request(pdu.OpLogoutReq, true)
	(*pdu.LogoutReq)(h).SetReason(pdu.LogoutCloseConnection)
	if err := c.Send(h, nil); err != nil {
		r.t.Fatal(err)
	}
	for out := false; !out; runtime.Gosched() {
		r.tg.l.ev.Lock()
		for _, se := range r.tg.sessions {
			out = se.s.Conns()[0].LoggedOut()
		}
		r.tg.l.ev.Unlock()
	}
}

// Who deletes a target directly after a logout is not told that it is in use: a logout whose answer is not taken is waited for, and
// bounded by Limits.LogoutWait.
func TestRemoveWaitsForLogouts(t *testing.T) {
	r := newRig(t, Config{Limit: session.Limits{LogoutWait: 100e6}}, "")
	r.deafLogout()
	if err := r.tg.Remove(r.ctx(), false); err != nil {
		t.Fatal(err)
	}
	if n := r.s.Stats().Ended["no_logout"]; n != 1 {
		t.Fatal(r.s.Stats().Ended)
	}
}

// While a removal waits nobody is let in, and is told to try again; one that waits in vain leaves the target as it was.
func TestRemoveGivesUp(t *testing.T) {
	r := newRig(t, Config{Limit: session.Limits{LogoutWait: 1e12}}, "")
	r.deafLogout()
	ctx, cancel := context.WithCancel(r.ctx())
	defer cancel()
	done := make(chan error)
	go func() { done <- r.tg.Remove(ctx, false) }()
	l := r.tg.l
	for waits := false; !waits; runtime.Gosched() {
		l.ev.Lock()
		waits = r.tg.left != nil
		l.ev.Unlock()
	}
	wantStatus(t, r, r.options(3), pdu.ServiceUnavailable)
	cancel()
	if err := <-done; !errors.Is(err, ErrTargetInUse) || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	r.login(3)
	if i := r.tg.Info(); !i.Ready || len(i.LUNs) != 2 {
		t.Fatalf("%+v", i)
	}
}

// Draining one target asks its initiators to log out, cuts off who does not, keeps others out meanwhile, and leaves other targets alone.
func TestDrainTarget(t *testing.T) {
	r := newRig(t, Config{}, "")
	other, err := r.s.AddTarget(testTarget+"-2", TargetConfig{})
	if err != nil {
		t.Fatal(err)
	}
	o := r.options(9)
	o.TargetName = other.Name()
	bystander, err := initiator.Login(r.ctx(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer bystander.Close()
	deaf := r.rawLogin(2)
	ctx, cancel := context.WithCancel(r.ctx())
	done := make(chan error)
	go func() { done <- r.tg.Drain(ctx) }()
	p, err := deaf.Expect(pdu.OpAsync)
	if err != nil || (*pdu.Async)(&p.Header).Event() != pdu.AsyncLogout {
		t.Fatal("it was not asked to log out:", err)
	}
	wantStatus(t, r, r.options(3), pdu.ServiceUnavailable)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if n := len(r.tg.Sessions()); n != 0 {
		t.Fatalf("%d sessions are left", n)
	}
	if _, err := bystander.Ping(r.ctx(), nil); err != nil {
		t.Fatal(err)
	}
	// One that follows ends the waiting by itself.
	polite := r.login(4)
	go func() {
		for polite.Err() == nil {
			if _, err := polite.Ping(context.Background(), nil); err != nil {
				break
			}
		}
		polite.Close()
	}()
	if err := r.tg.Drain(r.ctx()); err != nil {
		t.Fatal(err)
	}
	if e := r.s.Stats().Ended; e["logout"] != 1 || e["drained"] != 1 {
		t.Fatal(e)
	}
}

// Config.Notify is told who came, who went and why, and who was not let in.
func TestNotify(t *testing.T) {
	events := make(chan Event, 64)
	r := newRig(t, Config{Notify: func(e Event) { events <- e }}, "")
	want := func(kind EventKind, reason string) Event {
		t.Helper()
		select {
		case e := <-events:
			if e.Kind != kind || e.Reason != reason || e.Time.IsZero() || !e.Peer.IsValid() {
				t.Fatalf("%+v, want %v %q", e, kind, reason)
			}
			return e
		case <-time.After(testWait):
			t.Fatalf("no event, want %v %q", kind, reason)
		}
		return Event{}
	}
	o := r.options(1)
	o.TargetName += "-absent"
	wantStatus(t, r, o, pdu.TargetNotFound)
	if e := want(LoginFailed, "not_found"); e.Initiator == "" || e.Detail == "" {
		t.Fatalf("%+v", e)
	}
	s := r.login(1)
	if e := want(LoggedIn, ""); e.Target != testTarget || e.TSIH != 1 || e.Initiator == "" {
		t.Fatalf("%+v", e)
	}
	if err := s.Logout(r.ctx()); err != nil {
		t.Fatal(err)
	}
	if e := want(SessionEnded, "logout"); e.Target != testTarget || e.TSIH != 1 {
		t.Fatalf("%+v", e)
	}
	r.login(2)
	want(LoggedIn, "")
	s = r.login(2)
	want(SessionEnded, "reinstated")
	want(LoggedIn, "")
	s.Close()
	want(SessionEnded, "closed")
	// A connection that takes another's place is no new session, and does not end one.
	old := r.rawLogin(4)
	was := want(LoggedIn, "")
	c := r.dial(4)
	c.TSIH, c.CmdSN = old.TSIH, old.CmdSN
	if got := r.step(c, true, pdu.SecurityNegotiation, pdu.FullFeaturePhase, rawNames); got.Status() != pdu.LoginSuccess {
		t.Fatalf("%04Xh", uint16(got.Status()))
	}
	if e := want(Reconnected, ""); e.TSIH != was.TSIH || e.Peer == was.Peer {
		t.Fatalf("%+v after %+v", e, was)
	}
	if err := r.tg.CloseSession(was.TSIH); err != nil {
		t.Fatal(err)
	}
	want(SessionEnded, "admin")
	r.login(3)
	want(LoggedIn, "")
	if err := r.tg.Remove(r.ctx(), true); err != nil {
		t.Fatal(err)
	}
	want(SessionEnded, "target_removed")
}

// Deletes, closes, drains and logouts in any order, with initiators that come back all the time: no call hangs, no target is stuck, and nothing
// is left over.
func TestLifeAndDeath(t *testing.T) {
	const targets, initiators, rounds = 3, 6, 60
	r := newRig(t, Config{Limit: session.Limits{LogoutWait: 200e6}}, "")
	before := resources(t)
	ctx, cancel := context.WithTimeout(context.Background(), 4*testWait)
	defer cancel()
	name := func(i int) string { return fmt.Sprintf("%s-%d", testTarget, i) }
	var clients, admins sync.WaitGroup
	var logins atomic.Int64
	stop := make(chan struct{})
	for n := range initiators {
		clients.Add(1)
		go func() {
			defer clients.Done()
			rnd := rand.New(rand.NewPCG(1, uint64(n)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				o := r.options(byte(n % 4)) // some share a port, and reinstate each other's sessions
				o.TargetName = name(rnd.IntN(targets))
				s, err := initiator.Login(ctx, o)
				if err != nil {
					runtime.Gosched()
					continue
				}
				logins.Add(1)
				for i := range rnd.IntN(6) {
					if _, err = s.Start(lun1, write10(uint32(i*64), 64), block('a', 64), 0); err != nil {
						break
					}
				}
				switch rnd.IntN(3) {
				case 0:
					_ = s.Logout(ctx) // it may be gone already
				case 1:
					_, _ = s.Command(ctx, lun1, read10(0, 8), nil, 4096)
				}
				s.Close()
			}
		}()
	}
	for i := range targets {
		admins.Add(1)
		go func() {
			defer admins.Done()
			rnd := rand.New(rand.NewPCG(2, uint64(i)))
			for round := range rounds {
				if err := r.liveOnce(ctx, name(i), round, rnd); err != nil {
					t.Errorf("target %d, round %d: %v", i, round, err)
					return
				}
			}
		}()
	}
	admins.Wait()
	close(stop)
	clients.Wait()
	if n := len(r.s.table.Load().targets); n != 1 {
		t.Errorf("%d targets are left", n)
	}
	r.s.mu.Lock()
	if n := len(r.s.loops); n != 1 {
		t.Errorf("%d loops are left", n)
	}
	r.s.mu.Unlock()
	st := r.s.Stats()
	total := uint64(0)
	for _, n := range st.Ended {
		total += n
	}
	if st.Sessions != 0 || total != st.Logins || len(r.s.tsih.used) != 0 {
		t.Errorf("%d sessions, %d handles in use, %d of %d logins have ended: %v", st.Sessions, len(r.s.tsih.used), total, st.Logins, st.Ended)
	}
	if logins.Load() < rounds {
		t.Errorf("only %d logins", logins.Load())
	}
	leaks(t, before)
}

// liveOnce makes a target, does things to it and its sessions, and removes it.
func (r *rig) liveOnce(ctx context.Context, name string, round int, rnd *rand.Rand) error {
	tg, err := r.s.AddTarget(name, TargetConfig{})
	if err != nil {
		return err
	}
	add := func() error {
		return tg.AddDisk(1, newStore(r.t, "write delay=1ms every=5"), scsi.DiskConfig{Identity: fmt.Sprint(name, round)})
	}
	if err := add(); err != nil {
		return err
	}
	for range 8 + rnd.IntN(8) {
		var some SessionInfo
		if list := tg.Sessions(); len(list) != 0 {
			some = list[rnd.IntN(len(list))]
		}
		switch rnd.IntN(6) {
		case 0:
			if err := tg.CloseSession(some.TSIH); err != nil && !errors.Is(err, ErrNoSession) {
				return err
			}
		case 1:
			if err := tg.CloseConnection(some.TSIH, 0); err != nil && !errors.Is(err, ErrNoSession) && !errors.Is(err, ErrNoConnection) {
				return err
			}
		case 2:
			if err := tg.RemoveLUN(ctx, 1, true); err != nil {
				return err
			}
			if err := add(); err != nil {
				return err
			}
		case 3:
			short, cancel := context.WithTimeout(ctx, time.Millisecond)
			err := tg.Drain(short)
			cancel()
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
		case 4:
			for _, l := range tg.Info().LUNs {
				if l.Queued < 0 {
					return fmt.Errorf("%d commands are queued", l.Queued)
				}
			}
		case 5:
			r.s.Stats()
		}
		for was := r.s.count.logins.Load(); r.s.count.logins.Load() == was && rnd.IntN(2000) != 0; runtime.Gosched() {
		}
	}
	for tries := 0; ; tries++ {
		err := tg.Remove(ctx, tries > rnd.IntN(4))
		if !errors.Is(err, ErrTargetInUse) {
			return err
		}
	}
}

// A target whose store never answers is removed all the same, with an error that says so; when the store does answer, what it held is given
// back: memory, the loop, the claim on its state file.
func TestRemoveWithHungStore(t *testing.T) {
	r := newRig(t, Config{StateDir: t.TempDir()}, "")
	before := resources(t)
	tg, err := r.s.AddTarget(testTarget+"-2", TargetConfig{})
	if err != nil {
		t.Fatal(err)
	}
	st := newStore(t, "write hang count=1")
	if err := tg.AddDisk(1, st, scsi.DiskConfig{Identity: "hung"}); err != nil {
		t.Fatal(err)
	}
	o := r.options(1)
	o.TargetName = tg.Name()
	s, err := initiator.Login(r.ctx(), o)
	if err != nil {
		t.Fatal(err)
	}
	r.ready(s)
	if _, err := s.Start(lun1, write10(0, 64), block('h', 64), 0); err != nil {
		t.Fatal(err)
	}
	if err := st.Wait(r.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	if r.s.budget.Used() == 0 {
		t.Fatal("the write has no memory of the budget")
	}
	ctx, cancel := context.WithTimeout(r.ctx(), 20*time.Millisecond)
	defer cancel()
	var be *backstore.Error
	if err := tg.Remove(ctx, true); !errors.As(err, &be) || be.Class != backstore.ClassBusy {
		t.Fatal("a store with a request in flight was closed, or:", err)
	}
	s.Close()
	again, err := r.s.AddTarget(testTarget+"-2", TargetConfig{})
	if err != nil {
		t.Fatal("its name is not free:", err)
	}
	if err := again.Remove(r.ctx(), false); err != nil {
		t.Fatal(err)
	}
	st.Release()
	if err := st.Gone(r.ctx()); err != nil {
		t.Fatal(err)
	}
	leaks(t, before)
	for deadline := time.Now().Add(testWait); r.s.budget.Used() != 0 && time.Now().Before(deadline); runtime.Gosched() {
	}
	if n := r.s.budget.Used(); n != 0 {
		t.Errorf("%d bytes of the budget are gone for ever", n)
	}
	if err := r.tg.AddDisk(2, newStore(t, ""), scsi.DiskConfig{Identity: "hung"}); err != nil {
		t.Error("its state file is claimed for ever:", err)
	}
}
