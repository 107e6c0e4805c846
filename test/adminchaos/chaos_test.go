package adminchaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// seedVariable names, in the environment, the seed of a run to do again.
const seedVariable = "LUNAR_CHAOS_SEED"

func TestChaos(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedVariable, err)
		}
	}
	t.Logf("%s=%d", seedVariable, seed)
	w := newWorld(t, seed)
	before := resources(t)
	l := w.begin(0, "")
	for n := 1; ; n++ {
		l.serve()
		want := l.chaos()
		if t.Failed() {
			_ = l.m.Close()
			return
		}
		l.end(before)
		if n > lives {
			break
		}
		l = w.begin(n, filepath.Join(w.dir, fmt.Sprintf("saved%d", n-1)))
		got := l.m.Document()
		if c := spec.Changes(want, got); c != "" {
			t.Fatalf("what was saved is not what was set: %s", c)
		}
	}
	w.verify()
}

// chaos lets administrators and initiators do what they like, then holds what is there against what they did. It returns the document,
// which another life is to find in the folder savedN.
func (l *life) chaos() spec.Document {
	t := l.t
	d := l.m.Document()
	l.model.start(&d)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var clients, admins, watchers sync.WaitGroup
	for i := range initiators {
		w := &worker{life: l, id: i, rnd: l.rand(uint64(l.number)<<16 | 1<<8 | uint64(i)), target: i % targets}
		clients.Go(func() {
			if err := w.work(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	events := 0
	watchers.Go(func() {
		for range l.m.Watch(ctx) {
			events++
		}
	})
	for i := range administrators {
		a := &administrator{life: l, id: i, rnd: l.rand(uint64(l.number)<<16 | 2<<8 | uint64(i))}
		admins.Go(func() {
			if err := a.work(calls); err != nil {
				t.Error(err)
			}
		})
	}
	admins.Wait()
	d = l.m.Document()
	d.Portals = slices.DeleteFunc(d.Portals, func(p spec.Portal) bool { return p.Group == 0 }) // the one that stays is of this life
	if err := l.model.check(&d); err != nil {
		t.Error("the document is not what the calls say: ", err)
	}
	l.keep()
	l.liveAsSet(&d)
	for i := range targets {
		if err := l.usable(name(i)); err != nil {
			t.Errorf("%s is stuck: %v", name(i), err)
		}
	}
	stop()
	clients.Wait()
	watchers.Wait()
	if !soon(func() bool {
		s := l.m.Server().Stats()
		return s.Sessions == 0 && s.LoggingIn == 0 && s.BufferBytes == 0
	}) {
		s := l.m.Server().Stats()
		t.Errorf("nobody is there any more, but there are %d sessions, %d logins and %d bytes of buffers", s.Sessions, s.LoggingIn, s.BufferBytes)
	}
	if n := l.m.Server().Stats().Panics; n != 0 {
		t.Errorf("%d faults of lunar's own", n)
	}
	l.tell(events)
	return d
}

// keep copies the state as it is on disk.
func (l *life) keep() {
	t := l.t
	dir := filepath.Join(l.dir, fmt.Sprintf("saved%d", l.number))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(l.journal.File())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, filepath.Base(l.journal.File())), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// liveAsSet holds what is served against what is set.
func (l *life) liveAsSet(d *spec.Document) {
	t := l.t
	list := l.m.Targets(true)
	if len(list) != len(d.Targets) {
		t.Errorf("%d targets, %d are set", len(list), len(d.Targets))
		return
	}
	for i := range list {
		s, live := &d.Targets[i], &list[i].Live
		if !live.Ready {
			t.Errorf("%s is not ready", s.Name)
		}
		if n := len(live.LUNs); n != len(s.LUNs)+1 { // the controller
			t.Errorf("%s serves %d LUNs, %d and a controller are set", s.Name, n, len(s.LUNs))
			continue
		}
		for k := range s.LUNs {
			set, now := &s.LUNs[k], &live.LUNs[k+1]
			size := sizeIn(set.Volume)
			var i int
			several := fileOf(set.Serial, &i) && i < shared // the disk may be another LUN's, too, which was taken offline
			if set.Number != now.LUN || set.Identity != now.Identity || !several && set.Offline == now.Online || size != now.Size && size != minSize {
				t.Errorf("%s: set is %+v, live %+v", s.Name, *set, *now)
			}
		}
	}
}

// fileOf reads the number of a file from its serial number.
func fileOf(serial string, i *int) bool {
	_, err := fmt.Sscanf(serial, fileSerial+"%d", i)
	return err == nil
}

// usable removes a target, if it is there, makes it anew and uses it.
func (l *life) usable(target string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := l.m.RemoveTarget(ctx, admin.Ref{Name: target}, true); err != nil && admin.CodeOf(err) != admin.NoTarget {
		return err
	}
	if _, err := l.m.AddTarget(ctx, spec.Target{Name: target, Access: []spec.Rule{{Address: "ALL"}}, LUNs: []spec.LUN{{Number: 1, Volume: "mem:?size=1M"}}}); err != nil {
		return err
	}
	s, err := initiator.Login(ctx, initiator.Options{Portal: l.portal, TargetName: target, InitiatorName: initiatorName(initiators)})
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		res, err := s.Command(ctx, sam.NewLUN(1), initiator.TestUnitReady(), nil, 0)
		if err != nil {
			return err
		}
		if res.Err() == nil {
			return s.Logout(ctx)
		}
	}
}

// tell logs what has happened, and fails where something never did: then nothing was tested.
func (l *life) tell(events int) {
	t := l.t
	line := ""
	for k := range kinds {
		line += fmt.Sprintf(", %v %d/%d", k, l.done[k].Load(), l.refused[k].Load())
	}
	t.Logf("life %d: %d logins, %d commands, %d unit attentions, %d events, %d stores opened; calls done/refused%s",
		l.number, l.logins.Load(), l.ios.Load(), l.turned.Load(), events, l.opened.Load(), line)
	if l.logins.Load() < initiators || l.ios.Load() == 0 || events == 0 {
		t.Error("there was no load")
	}
}
