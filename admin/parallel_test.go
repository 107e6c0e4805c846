package admin

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin/journal"
	"github.com/lunar-iscsi/lunar/admin/journal/journaltest"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// Calls of every kind on many targets at once, while initiators log in, read and write, and log out or break off: whatever happens is one of
// the errors that there are for it, what is set and what is live agree in the end, a restart finds it, and nothing is left behind.
func TestUnderLoad(t *testing.T) {
	before := runtime.NumGoroutine()
	const targets, admins, initiators, calls = 4, 6, 4, 300
	fs := journaltest.New(1)
	m, j, err := onJournal(t, fs)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(WithCaller(t.Context(), Caller{Face: "test", UID: -1}), time.Minute)
	defer cancel()
	portal, err := m.AddPortal(ctx, spec.Portal{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Serve(); err != nil {
		t.Fatal(err)
	}
	for i := range targets {
		if _, err := m.AddTarget(ctx, spec.Target{TID: i + 1, Name: fmt.Sprintf("%st%d", iqn, i+1), Access: everybody(), LUNs: []spec.LUN{{Number: 1, Volume: "mem:?size=1M"}}}); err != nil {
			t.Fatal(err)
		}
	}
	var busy, idle sync.WaitGroup
	ended := make(chan struct{})
	for i := range initiators {
		idle.Add(1)
		go func() {
			defer idle.Done()
			for n := 0; ; n++ {
				select {
				case <-ended:
					return
				default:
				}
				useDisk(ctx, portal.Bound.String(), fmt.Sprintf("%st%d", iqn, 1+(i+n)%targets), n%3 == 0)
			}
		}()
	}
	for i := range admins {
		busy.Add(1)
		go func() {
			defer busy.Done()
			rng := rand.New(rand.NewPCG(uint64(i), 6))
			for n := range calls {
				err := randomAdmin(ctx, m, rng, 1+rng.IntN(targets), i*calls+n)
				var e *Error
				if err != nil && !errors.As(err, &e) {
					t.Errorf("an error without a code: %v", err)
				}
				switch CodeOf(err) {
				case Internal, SaveFailed, Timeout:
					if err != nil {
						t.Errorf("call %d: %v", n, err)
					}
				}
			}
		}()
	}
	for range 50 { // and somebody looks at it all the time
		_, _, _ = m.Targets(true), m.Document(), m.System()
	}
	busy.Wait()
	close(ended)
	idle.Wait()

	for _, s := range m.Targets(true) {
		if len(s.Live.LUNs) != len(s.Spec.LUNs)+1 {
			t.Errorf("target %s is live with %d LUNs, set are %d", s.Spec.Name, len(s.Live.LUNs), len(s.Spec.LUNs))
		}
		for i, l := range s.Spec.LUNs {
			if live := s.Live.LUNs[i+1]; live.LUN != l.Number || live.Identity != l.Identity || live.Online == l.Offline {
				t.Errorf("target %s LUN %d: set is %+v, live %+v", s.Spec.Name, l.Number, l, live)
			}
		}
		if err := m.RemoveTarget(ctx, Ref{TID: s.Spec.TID}, true); err != nil {
			t.Error(err)
		}
	}
	if len(m.volumes) != 0 || len(m.byTID) != 0 || len(m.byName) != 0 {
		t.Errorf("left are volumes %v, targets %v", m.volumes, m.byName)
	}
	if n := m.System().Stats.Logins; n < 20 {
		t.Errorf("only %d logins", n)
	}
	if err := errors.Join(m.Close(), j.Close()); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > before {
		b := make([]byte, 1<<16)
		t.Errorf("%d goroutines, there were %d:\n%s", n, before, b[:runtime.Stack(b, true)])
	}
	again, err := journal.Open(fs.Restart(true), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(again.Objects()); n != 3 && n != 2 { // portals, accounts; the system where it was changed
		t.Errorf("saved is %v", again.Objects())
	}
}

// useDisk logs in to a target, if it is there, and uses its disk.
func useDisk(ctx context.Context, portal, target string, breaks bool) {
	s, err := initiator.Login(ctx, initiator.Options{Portal: portal, TargetName: target})
	if err != nil {
		return
	}
	defer s.Close()
	for n := range 20 {
		if _, err := s.Command(ctx, sam.NewLUN(1), []byte{0x2a, 0, 0, 0, 0, byte(n), 0, 0, 1, 0}, make([]byte, 512), 0); err != nil {
			return
		}
		if _, err := s.Command(ctx, sam.NewLUN(1), []byte{0x28, 0, 0, 0, 0, byte(n), 0, 0, 1, 0}, nil, 512); err != nil {
			return
		}
	}
	if !breaks {
		_ = s.Logout(ctx) // it may have been removed meanwhile
	}
}

// randomAdmin makes one call.
func randomAdmin(ctx context.Context, m *Manager, rng *rand.Rand, tid, n int) error {
	ref, lun := Ref{TID: tid}, uint16(1+rng.IntN(3))
	account := fmt.Sprintf("account%d", rng.IntN(3))
	switch rng.IntN(14) {
	case 0:
		return m.RemoveTarget(ctx, ref, rng.IntN(2) == 0)
	case 1, 2:
		_, err := m.AddTarget(ctx, spec.Target{TID: tid, Name: fmt.Sprintf("%st%d", iqn, tid), Access: everybody(), LUNs: []spec.LUN{{Number: 1, Volume: "mem:?size=1M"}}})
		return err
	case 3:
		_, err := m.AddLUN(ctx, ref, spec.LUN{Number: lun, Volume: "mem:?size=1M"}, true)
		return err
	case 4:
		return m.RemoveLUN(ctx, ref, lun, rng.IntN(2) == 0)
	case 5:
		return m.EditTarget(ctx, ref, func(t *spec.Target) error { t.Alias, t.Offline = fmt.Sprint(n), n%5 == 0; return nil })
	case 6:
		return m.EditTarget(ctx, ref, func(t *spec.Target) error { t.Auth.Outgoing = account; return nil })
	case 7:
		return m.EditLUN(ctx, ref, lun, func(l *spec.LUN) error { l.Offline = !l.Offline; return nil })
	case 8:
		_, err := m.ResizeLUN(ctx, ref, lun, int64(1+n%8)<<20, true)
		return err
	case 9:
		return m.AddAccount(ctx, spec.Account{Name: account, Secret: "a secret that is long"})
	case 10:
		return m.RemoveAccount(ctx, account)
	case 11:
		return m.SetSecret(ctx, account, fmt.Sprintf("a secret that is longer %d", n))
	case 12:
		s, err := m.Target(ref, true)
		if err == nil && len(s.Live.Sessions) > 0 {
			return m.CloseSession(ctx, ref, s.Live.Sessions[0].TSIH)
		}
		return err
	default:
		short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
		defer stop()
		if err := m.DrainTarget(short, ref); CodeOf(err) != Timeout {
			return err
		}
		return nil // it had to wait for its turn longer than it had time
	}
}
