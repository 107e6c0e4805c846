package target

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// sensed runs a command and returns key, code and qualifier as one number; 0: GOOD.
func (r *rig) sensed(s *initiator.Session, lun sam.LUN, cdb, out []byte, in int) int {
	r.t.Helper()
	res, err := s.Command(r.ctx(), lun, cdb, out, in)
	if err != nil {
		r.t.Fatal(err)
	}
	if res.Status == sam.Good {
		return 0
	}
	key, asc, ascq, _ := initiator.SenseFields(res.Sense)
	return int(key)<<16 | int(asc)<<8 | int(ascq)
}

// TestUpdateDisk: a disk changes under its sessions, which hear of it, and stay.
func TestUpdateDisk(t *testing.T) {
	r := newRig(t, Config{}, "")
	s, o := r.login(1), r.login(2)
	update := func(u scsi.DiskUpdate) error {
		u.Config.Identity = "test"
		return r.tg.UpdateDisk(r.ctx(), 1, u)
	}
	if err := update(scsi.DiskUpdate{Config: scsi.DiskConfig{Vendor: "ACME", ReadOnly: true}, Online: true}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*initiator.Session{s, o} {
		r.conditions(x, 0x3f03, 0x2a01)
		if got := r.sensed(x, lun1, write10(0, 1), block('x', 1), 0); got != 0x072700 {
			t.Errorf("a write to a disk that has become read-only: %06x", got)
		}
	}
	if err := update(scsi.DiskUpdate{Config: scsi.DiskConfig{Vendor: "NINE CHARS"}, Online: true}); err == nil || !strings.Contains(err.Error(), testTarget+" LUN 1: vendor") {
		t.Error(err)
	}
	if got := r.sensed(s, lun1, write10(0, 1), block('x', 1), 0); got != 0x072700 {
		t.Errorf("half of a change took place: %06x", got)
	}
	if got := r.sensed(s, lun1, []byte{cdb.PreventAllow, 4: 1, 5: 0}, nil, 0); got != 0 {
		t.Fatalf("%06x", got)
	}
	if err := update(scsi.DiskUpdate{}); !errors.Is(err, ErrRemovalPrevented) {
		t.Error("a medium that is prevented from removal:", err)
	}
	if err := update(scsi.DiskUpdate{Force: true}); err != nil {
		t.Fatal(err)
	}
	r.conditionsNotReady(s, 0x023a00, 0x3f03, 0x2a01)
	if got := r.sensed(s, lun1, read10(0, 1), nil, 512); got != 0x023a00 {
		t.Errorf("a read of a disk that is offline: %06x", got)
	}
	if err := update(scsi.DiskUpdate{Online: true}); err != nil {
		t.Fatal(err)
	}
	r.conditions(s, 0x2800)
	r.write(s, 0, block('y', 1))
	if err := r.tg.UpdateDisk(r.ctx(), 0, scsi.DiskUpdate{}); !errors.Is(err, ErrNoLUN) {
		t.Error("the controller was changed:", err)
	}
}

// conditionsNotReady is conditions of a disk that is not ready: the last answer is last.
func (r *rig) conditionsNotReady(s *initiator.Session, last int, want ...int) {
	r.t.Helper()
	for _, w := range want {
		if got := r.next(s, lun1); got != w {
			r.t.Fatalf("told %04x, want %04x", got, w)
		}
	}
	if got := r.sensed(s, lun1, initiator.TestUnitReady(), nil, 0); got != last {
		r.t.Fatalf("%06x, want %06x", got, last)
	}
}

// TestCacheOffFlushes: a cache that is turned off is made durable first; when that fails, or takes too long, it stays on.
func TestCacheOffFlushes(t *testing.T) {
	r := newRig(t, Config{}, "")
	st, _ := fileStore(t, "8M")
	f := &flushCounter{Store: st}
	if info := st.Info(); !info.Has(backstore.CapFlush) {
		f.pretend = true // a file system in memory has no volatile cache
	}
	if err := r.tg.AddDisk(2, f, scsi.DiskConfig{Identity: "cached"}); err != nil {
		t.Fatal(err)
	}
	s, lun2 := r.login(1), sam.NewLUN(2)
	r.readyAt(s, lun2)
	off := false
	u := scsi.DiskUpdate{Config: scsi.DiskConfig{WriteCache: &off}, Online: true}
	wce := func() bool {
		res, err := s.Command(r.ctx(), lun2, []byte{cdb.ModeSense6, 8, 0x08, 0, 255, 0}, nil, 255)
		if err != nil || res.Err() != nil {
			t.Fatal(err, res.Err())
		}
		return res.Data[6]&4 != 0
	}
	f.set(func(*backstore.Request) backstore.Outcome { return backstore.Pending })
	short, cancel := context.WithTimeout(r.ctx(), 50*time.Millisecond)
	defer cancel()
	if err := r.tg.UpdateDisk(short, 2, u); !errors.Is(err, context.DeadlineExceeded) || !wce() {
		t.Errorf("a flush that does not end: %v, cache %v", err, wce())
	}
	f.release()
	f.set(func(q *backstore.Request) backstore.Outcome {
		q.Err = &backstore.Error{Class: backstore.ClassBusy, Op: "flush"}
		return backstore.Done
	})
	if err := r.tg.UpdateDisk(r.ctx(), 2, u); err == nil || !strings.Contains(err.Error(), "flush: BUSY") || !wce() {
		t.Errorf("a flush that fails: %v, cache %v", err, wce())
	}
	r.hearsAt(s, lun2)
	f.set(nil)
	n := f.count()
	if err := r.tg.UpdateDisk(r.ctx(), 2, u); err != nil || f.count() != n+1 {
		t.Errorf("%v, %d flushes", err, f.count()-n)
	}
	r.hearsAt(s, lun2, 0x2a01)
	if wce() {
		t.Error("the cache is on")
	}
	on := true
	u.Config.WriteCache = &on
	if err := r.tg.UpdateDisk(r.ctx(), 2, u); err != nil || f.count() != n+1 {
		t.Errorf("%v, %d flushes", err, f.count()-n)
	}
	r.hearsAt(s, lun2, 0x2a01)
}

func (r *rig) hearsAt(s *initiator.Session, lun sam.LUN, want ...int) {
	r.t.Helper()
	for _, w := range append(want, 0) {
		if got := r.next(s, lun); got != w {
			r.t.Fatalf("told %04x, want %04x", got, w)
		}
	}
}

// flushCounter is a store whose flushes the test counts and carries out.
type flushCounter struct {
	backstore.Store
	pretend bool

	mu      sync.Mutex
	flushes int
	how     func(*backstore.Request) backstore.Outcome
	held    []*backstore.Request
}

func (f *flushCounter) set(how func(*backstore.Request) backstore.Outcome) {
	f.mu.Lock()
	f.how = how
	f.mu.Unlock()
}

func (f *flushCounter) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.flushes
}

func (f *flushCounter) release() {
	f.mu.Lock()
	held := f.held
	f.held = nil
	f.mu.Unlock()
	for _, q := range held {
		q.C.Complete(q)
	}
}

func (f *flushCounter) Info() backstore.Info {
	i := f.Store.Info()
	if f.pretend {
		i.Caps |= backstore.CapFlush
	}
	return i
}

func (f *flushCounter) Submit(q *backstore.Request) backstore.Outcome {
	if q.Op != backstore.Flush {
		return f.Store.Submit(q)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.flushes++; f.how == nil {
		q.Err = nil
		return backstore.Done
	}
	out := f.how(q)
	if out == backstore.Pending {
		f.held = append(f.held, q)
	}
	return out
}

// TestSwap: an offline disk gets another volume, with sessions there; the old one is closed, the reservations stay.
func TestSwap(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, Config{StateDir: dir}, "")
	s, o := r.login(1), r.login(2)
	if res := r.prOut(s, prRegister, 0, 0, 1, prAPTPL); res.Err() != nil {
		t.Fatal(res.Err())
	}
	r.write(s, 0, block('o', 8))
	next := newStore(t, "")
	if _, err := r.tg.PrepareSwap(r.ctx(), 1, newStore(t, "")); !errors.Is(err, ErrOnline) {
		t.Error("the volume of a disk that is online:", err)
	}
	off := scsi.DiskUpdate{Config: scsi.DiskConfig{Identity: "test"}}
	on := off
	on.Online = true
	if err := r.tg.UpdateDisk(r.ctx(), 1, off); err != nil {
		t.Fatal(err)
	}
	p, err := r.tg.PrepareSwap(r.ctx(), 1, next)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(r.ctx(), 20*time.Millisecond)
	defer cancel()
	if err := r.tg.UpdateDisk(short, 1, on); !errors.Is(err, ErrLUNInUse) {
		t.Error("online between two volumes:", err)
	}
	if err := p.Abort(r.ctx()); err != nil || !closed(next) {
		t.Error("an aborted swap left the store open:", err)
	}
	next = newStore(t, "")
	if p, err = r.tg.PrepareSwap(r.ctx(), 1, next); err != nil {
		t.Fatal(err)
	}
	old := r.store
	if err := p.Commit(r.ctx()); err != nil || !closed(old) {
		t.Error("the old volume is open:", err)
	}
	r.store = next
	if err := p.Abort(r.ctx()); err != nil || closed(next) {
		t.Error("Abort after Commit did something:", err)
	}
	if got := r.sensed(s, lun1, read10(0, 1), nil, 512); got != 0x023a00 {
		t.Errorf("%06x", got)
	}
	if err := r.tg.UpdateDisk(r.ctx(), 1, on); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*initiator.Session{s, o} {
		r.conditions(x, 0x2800)
		if got := r.read(x, 0, 8); !bytes.Equal(got, make([]byte, 4096)) {
			t.Errorf("the old volume's data: %q", got[:8])
		}
	}
	if got := r.sensed(s, lun1, []byte{cdb.PersistentIn, 0, 8: 64, 9: 0}, nil, 64); got != 0 {
		t.Errorf("READ KEYS: %06x", got)
	}
	if res, err := s.Command(r.ctx(), lun1, []byte{cdb.PersistentIn, 0, 8: 64, 9: 0}, nil, 64); err != nil || len(res.Data) != 16 || res.Data[15] != 1 {
		t.Errorf("the registration is gone: %v %x", err, res.Data)
	}
	// Without a volume, and back.
	if err := r.tg.UpdateDisk(r.ctx(), 1, off); err != nil {
		t.Fatal(err)
	}
	if p, err = r.tg.PrepareSwap(r.ctx(), 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(r.ctx()); err != nil || !closed(next) {
		t.Error(err)
	}
	if err := r.tg.UpdateDisk(r.ctx(), 1, on); !errors.Is(err, ErrNoMedium) {
		t.Error("online without a volume:", err)
	}
	if err := r.tg.RemoveLUN(r.ctx(), 1, false); err != nil {
		t.Error(err)
	}
}

// TestSwapWaits: a swap waits for what the old volume has, and a disk that is removed in between takes the new one along.
func TestSwapWaits(t *testing.T) {
	r := newRig(t, Config{}, "write hang count=1")
	s := r.login(1)
	w, err := s.Start(lun1, write10(0, 8), block('a', 8), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.Wait(r.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	if err := r.tg.UpdateDisk(r.ctx(), 1, scsi.DiskUpdate{Config: scsi.DiskConfig{Identity: "test"}}); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(r.ctx(), 20*time.Millisecond)
	defer cancel()
	refused := newStore(t, "")
	if _, err := r.tg.PrepareSwap(short, 1, refused); !errors.Is(err, ErrLUNInUse) || !closed(refused) {
		t.Error("with a write at the old volume:", err)
	}
	type result struct {
		p   *PendingSwap
		err error
	}
	done := make(chan result, 1)
	next := newStore(t, "")
	go func() {
		p, err := r.tg.PrepareSwap(r.ctx(), 1, next)
		done <- result{p, err}
	}()
	r.store.Release()
	got := <-done
	if got.err != nil {
		t.Fatal(got.err)
	}
	if res, err := w.Wait(r.ctx()); err != nil || res.Err() != nil {
		t.Error("the write:", err, res.Err())
	}
	if err := r.tg.RemoveLUN(r.ctx(), 1, false); err != nil || !closed(next) || !closed(r.store) {
		t.Error("a store is open:", err)
	}
	if err := got.p.Commit(r.ctx()); err != nil {
		t.Error(err)
	}
	if err := got.p.Abort(r.ctx()); err != nil {
		t.Error(err)
	}
}

// TestDiskChangesUnderLoad: a disk goes offline, gets another volume, comes back, grows and shrinks while sessions use it. Every command
// ends, as one that may; nobody is logged out.
func TestDiskChangesUnderLoad(t *testing.T) {
	r := newRig(t, Config{}, "")
	lun2 := sam.NewLUN(2)
	if err := r.tg.AddDisk(2, newStore(t, ""), scsi.DiskConfig{Identity: "two"}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for n := range 3 {
		s := r.login(byte(n + 1))
		clients.Add(1)
		go func() {
			defer clients.Done()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				lba := uint32(i % (testSize/512 - 8))
				for k, c := range [][]byte{write10(lba, 8), read10(lba, 8), initiator.SynchronizeCache10()} {
					var out []byte
					in := 0
					if k == 0 {
						out = block('a', 8)
					} else if k == 1 {
						in = 4096
					}
					res, err := s.Command(r.ctx(), lun2, c, out, in)
					if err != nil {
						t.Error(err)
						return
					}
					switch key, asc, ascq, _ := initiator.SenseFields(res.Sense); {
					case res.Status == sam.Good, key == 6:
					case key == 2 && asc == 0x3a && ascq == 0, key == 5 && asc == 0x21:
					default:
						t.Errorf("%x: %v", c, res.Err())
						return
					}
				}
			}
		}()
	}
	update := func(online bool) {
		t.Helper()
		if err := r.tg.UpdateDisk(r.ctx(), 2, scsi.DiskUpdate{Online: online}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 30 {
		update(false)
		p, err := r.tg.PrepareSwap(r.ctx(), 2, newStore(t, ""))
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			err = p.Abort(r.ctx())
		} else {
			err = p.Commit(r.ctx())
		}
		if err != nil {
			t.Fatal(err)
		}
		update(true)
		for _, size := range []int64{testSize / 2, testSize} {
			if _, err := r.tg.ResizeDisk(r.ctx(), 2, size, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	clients.Wait()
	s := r.login(9)
	r.readyAt(s, lun2)
	r.goes(2)
}
