package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A regime is one configuration of TestConfigureUnderLoad, with what has to be seen while it lasts.
type regime struct {
	cfg    TargetConfig
	status pdu.LoginStatus // that a guest's login ends with
	shown  bool            // to a guest, in discovery
	one    string          // what the masked initiator sees as LUN 1: a serial number
	busy   bool
	reads  bool // the masked initiator may only read
}

// The initiators of TestConfigureUnderLoad.
const (
	guestName  = "iqn.2026-11.example:guest"
	maskedName = "iqn.2026-11.example:masked"
)

func regimes(t *testing.T) []regime {
	chap := accounts()
	rest := []Rule{{Initiator: maskedName}, {Initiator: initiator.DefaultInitiatorName}}
	everybody := &Access{Rules: append([]Rule{{Initiator: "iqn.*:guest", Address: address(t, "127.0.0.0/8")}}, rest...)}
	to := func(lun uint16) []Mask {
		return []Mask{{Initiator: maskedName, LUNs: []MaskLUN{{As: 1, LUN: lun}}}}
	}
	return []regime{
		{cfg: TargetConfig{Masks: to(1)}, shown: true, one: "one"},
		{cfg: TargetConfig{Access: everybody, Masks: to(2)}, shown: true, one: "two"},
		{cfg: TargetConfig{Access: &Access{Rules: rest}, Masks: to(2)}, status: pdu.TargetNotFound, one: "two"},
		{cfg: TargetConfig{Access: &Access{Rules: []Rule{{Initiator: maskedName, ReadOnly: true}, rest[1]}}, Masks: to(1)}, status: pdu.TargetNotFound, one: "one", reads: true},
		{cfg: TargetConfig{Access: everybody, Offline: true, Masks: to(1)}, status: pdu.TargetError, shown: true, busy: true},
		{cfg: TargetConfig{Auth: &chap, Masks: to(2)}, status: pdu.AuthenticationFailed, shown: true, one: "two"},
		{cfg: TargetConfig{Redirect: Redirect{Address: "192.0.2.1"}, Masks: to(1)}, status: pdu.TargetMovedTemp, shown: true, one: "one"},
		{cfg: TargetConfig{PortalGroups: []uint16{2}, Masks: to(1)}, status: pdu.TargetNotFound, one: "one"},
		{cfg: TargetConfig{Window: 2, NoController: true, Masks: to(2)}, shown: true, one: "two"},
	}
}

// An epoch says which regime holds; while one takes the place of another none does.
type epoch struct{ at atomic.Uint64 } // regime number + 1 in the low 8 bits, 0 for none; a count above

func (e *epoch) set(regime int) { e.at.Store((e.at.Load()>>8+1)<<8 | uint64(regime+1)) }

// during calls f, and check with the regime that held all the time, if one did.
func (e *epoch) during(f func(), check func(regime int)) {
	before := e.at.Load()
	f()
	if e.at.Load() == before && before&0xff != 0 {
		check(int(before&0xff) - 1)
	}
}

// TestConfigureUnderLoad: configurations follow upon each other while sessions read and write, portals come and go, and others log in,
// discover and look at their LUNs. What Configure has said is so from its return on, to the next call, for everybody.
func TestConfigureUnderLoad(t *testing.T) {
	r := newRig(t, Config{LoginFailDelay: -1}, "")
	for lun, name := range map[uint16]string{2: "two", 3: "one"} {
		r.disk(lun, name)
	}
	all := regimes(t)
	for i := range all {
		for j := range all[i].cfg.Masks {
			if l := &all[i].cfg.Masks[j].LUNs[0]; l.LUN == 1 {
				l.LUN = 3 // LUN 1 is the loaders'
			}
		}
	}
	ctx := r.ctx()
	var now epoch
	var clients, others sync.WaitGroup
	over := make(chan struct{})
	var checks [4]atomic.Int64
	fail := func(format string, args ...any) {
		if ctx.Err() == nil {
			t.Errorf(format, args...)
		}
	}
	for i := range 2 {
		l := &loader{r: r, rnd: rand.New(rand.NewPCG(uint64(i), 1)), s: r.login(byte(i + 1)), lba: uint32(i * loaderBlocks)}
		clients.Add(1)
		go func() {
			defer clients.Done()
			if err := l.patient(ctx, 60); err != nil {
				fail("session %d: %v", i, err)
			}
		}()
	}
	loop := func(f func()) {
		others.Add(1)
		go func() {
			defer others.Done()
			for {
				select {
				case <-over:
					return
				default:
					f()
				}
			}
		}()
	}
	guest := r.options(7)
	guest.InitiatorName = guestName
	loop(func() {
		var err error
		now.during(func() {
			var s *initiator.Session
			if s, err = initiator.Login(ctx, guest); err == nil {
				s.Close()
			}
		}, func(n int) {
			checks[0].Add(1)
			var le *initiator.LoginError
			if want := all[n].status; err == nil && want != pdu.LoginSuccess || err != nil && (!errors.As(err, &le) || le.Status != want) {
				fail("regime %d: a login ended with %v, want %04Xh", n, err, uint16(want))
			}
		})
	})
	loop(func() {
		var list []initiator.Target
		var err error
		now.during(func() {
			list, err = initiator.Discover(ctx, initiator.Options{Portal: r.addr.String(), InitiatorName: guestName})
		}, func(n int) {
			checks[1].Add(1)
			if err != nil || (len(list) == 1) != all[n].shown {
				fail("regime %d: discovery tells %v, %v", n, list, err)
			}
		})
	})
	masked := r.plain(maskedName, 8)
	loop(func() { r.look(ctx, masked, all, &now, &checks[2], fail) })
	var since uint64
	loop(func() {
		at := now.at.Load()
		if at == since {
			runtime.Gosched()
			return
		}
		since = at
		addr, err := r.s.Listen("127.0.0.9:0,group=9")
		if err == nil {
			err = r.s.ClosePortal(addr)
		}
		if err != nil {
			fail("a portal: %v", err)
		}
		if list := r.s.Portals(); len(list) != 1 || list[0].Bound != r.addr {
			fail("portals: %v", list)
		}
		checks[3].Add(1)
	})
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	rnd := rand.New(rand.NewPCG(3, 4))
	enough := func() bool {
		return !slices.ContainsFunc([]int64{checks[0].Load(), checks[1].Load(), checks[2].Load(), checks[3].Load()}, func(n int64) bool { return n < 100 })
	}
	changes := 0
	for loaded := true; loaded || !enough(); changes++ {
		n := rnd.IntN(len(all))
		now.set(-1)
		if err := r.tg.Configure(all[n].cfg); err != nil {
			t.Fatal(err)
		}
		now.set(n)
		seen := [...]int64{checks[0].Load(), checks[1].Load(), checks[2].Load()}
		// A regime lasts until everything has been looked at under it, or is cut short.
		for left := []int{rnd.IntN(1000), 1 << 30}[rnd.IntN(2)]; left > 0 && ctx.Err() == nil; left-- {
			if checks[0].Load() != seen[0] && checks[1].Load() != seen[1] && checks[2].Load() != seen[2] {
				break
			}
			runtime.Gosched()
		}
		select {
		case <-done:
			loaded = false
		case <-ctx.Done():
			t.Fatal("it takes too long")
		default:
		}
	}
	close(over)
	others.Wait()
	t.Logf("%d configurations, checked: %d logins, %d discoveries, %d looks, %d portals", changes, checks[0].Load(), checks[1].Load(), checks[2].Load(), checks[3].Load())
	if n := r.s.Panics(); n != 0 {
		t.Errorf("%d faults", n)
	}
}

// look has the masked initiator look at its LUN 1 and write to it.
func (r *rig) look(ctx context.Context, s *initiator.Session, all []regime, now *epoch, count *atomic.Int64, fail func(string, ...any)) {
	var res, wr initiator.Result
	var err, werr error
	now.during(func() {
		res, err = s.Command(ctx, lun1, initiator.InquiryVPD(0x80, 64), nil, 64)
		wr, werr = s.Command(ctx, lun1, write10(0, 1), block('m', 1), 0)
	}, func(n int) {
		count.Add(1)
		want := all[n]
		if err != nil || werr != nil {
			fail("regime %d: %v, %v", n, err, werr)
			return
		}
		if want.busy != (res.Status == sam.Busy) || want.busy != (wr.Status == sam.Busy) {
			fail("regime %d: %v and %v", n, res.Status, wr.Status)
			return
		}
		if want.busy {
			return
		}
		if got := string(bytes.TrimSpace(res.Data[min(4, len(res.Data)):])); got != want.one {
			fail("regime %d: LUN 1 is %q, want %q", n, got, want.one)
		}
		key, asc, ascq, _ := initiator.SenseFields(wr.Sense)
		protected := key == 7 && asc == 0x27 && ascq == 0
		if wr.Status == sam.Good && want.reads || protected && !want.reads || wr.Status == sam.CheckCondition && key != 6 && !protected {
			fail("regime %d: a write ended %v, %x", n, wr.Status, wr.Sense)
		}
	})
}

// patient is run for a target that is offline at times.
func (l *loader) patient(ctx context.Context, rounds int) error {
	for round := range rounds {
		for {
			err := l.run(ctx, 1)
			var se *initiator.StatusError
			if errors.As(err, &se) && se.Status == sam.Busy {
				runtime.Gosched()
				continue
			}
			if err != nil {
				return fmt.Errorf("round %d: %w", round, err)
			}
			break
		}
	}
	return nil
}

// Many rules cost a login and a new configuration little: names that are written out are not gone through one by one.
func BenchmarkAdmits(b *testing.B) {
	for _, n := range []int{1, 100, 10000} {
		rules := make([]Rule, n)
		for i := range rules {
			rules[i] = Rule{Initiator: fmt.Sprintf("iqn.2026-11.example:host-%05d", i)}
		}
		a, err := newACL(&Access{Rules: rules})
		if err != nil {
			b.Fatal(err)
		}
		who := login.Initiator{Name: rules[n-1].Initiator}
		ip := netip.MustParseAddr("192.0.2.1")
		b.Run(fmt.Sprint(n, " rules"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := a.admits(who, ip); !ok {
					b.Fatal("not admitted")
				}
			}
		})
	}
}
