package file

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

const snapBlock = 4096

// A change is one value that a block had: who looks at a clock that counts what happens sees it begin and end.
type change struct {
	value      uint64 // 0: zeroes
	begin, end int64  // end 0: not yet
}

// A load writes a store at random and remembers what each block has had.
type load struct {
	h      *backstoretest.Harness
	rng    *rand.Rand
	clock  *atomic.Int64
	blocks [][]change
	busy   map[int64]bool
	flying map[*backstore.Request]bool
	next   uint64
}

func newLoad(h *backstoretest.Harness, seed uint64) *load {
	l := &load{h: h, rng: rand.New(rand.NewPCG(seed, 1)), clock: new(atomic.Int64), blocks: make([][]change, h.Info.Size/snapBlock), busy: map[int64]bool{}, flying: map[*backstore.Request]bool{}}
	for i := range l.blocks {
		l.blocks[i] = []change{{end: 1}}
	}
	l.clock.Store(1)
	return l
}

// start begins one write, discard or zeroing of up to 16 blocks that are free.
func (l *load) start() {
	first, n := l.rng.Int64N(int64(len(l.blocks))), 1+l.rng.Int64N(16)
	for i := range n {
		if b := first + i; b >= int64(len(l.blocks)) || l.busy[b] {
			n = i
			break
		}
	}
	if n == 0 {
		return
	}
	r := &backstore.Request{Op: backstore.Write, Off: first * snapBlock, Len: n * snapBlock}
	value := uint64(0)
	switch k := l.rng.IntN(20); {
	case k == 0:
		r.Op = backstore.WriteZeroes
	case k == 1 && l.h.Info.Has(backstore.CapDiscard):
		r.Op = backstore.Discard
	default:
		l.next++
		value = l.next
		r.Buf = l.h.Buf(r.Len)
		for i := 0; i < len(r.Buf); i += 8 {
			binary.LittleEndian.PutUint64(r.Buf[i:], value)
		}
		if l.rng.IntN(8) == 0 {
			r.Flags |= backstore.FUA
		}
	}
	at := l.clock.Add(1)
	for b := first; b < first+n; b++ {
		l.busy[b] = true
		l.blocks[b] = append(l.blocks[b], change{value: value, begin: at})
	}
	l.flying[r] = true
	if l.h.Start(r) != backstore.Pending {
		l.ended(r)
	}
}

func (l *load) ended(r *backstore.Request) {
	if r.Err != nil {
		l.h.T.Fatalf("%v [%d,+%d): %v", r.Op, r.Off, r.Len, r.Err)
	}
	delete(l.flying, r)
	at := l.clock.Add(1)
	for b := r.Off / snapBlock; b < (r.Off+r.Len)/snapBlock; b++ {
		delete(l.busy, b)
		l.blocks[b][len(l.blocks[b])-1].end = at
	}
}

// turn starts writes until depth are in flight and takes up what has ended.
func (l *load) turn(depth int) {
	for i := 0; i < depth && len(l.flying) < depth; i++ {
		l.start()
	}
	l.h.Kick()
	l.h.Turn(time.Millisecond)
	for r := l.h.Ended(); r != nil; r = l.h.Ended() {
		l.ended(r)
	}
}

func (l *load) settle() {
	for len(l.flying) > 0 {
		l.turn(0)
	}
}

// check says whether image is what the volume was at one moment between call and ret.
func (l *load) check(image []byte, call, ret int64) error {
	if len(image) != len(l.blocks)*snapBlock {
		return fmt.Errorf("it has %d bytes, the volume %d", len(image), len(l.blocks)*snapBlock)
	}
	can := make([]int, ret-call+2) // differences of how many blocks allow a moment
	for b, all := range l.blocks {
		data := image[b*snapBlock:][:snapBlock]
		value := binary.LittleEndian.Uint64(data)
		for i := 0; i < snapBlock; i += 8 {
			if v := binary.LittleEndian.Uint64(data[i:]); v != value {
				return fmt.Errorf("block %d is torn: values %d and %d", b, value, v)
			}
		}
		allowed := make([]int, ret-call+2)
		for i, c := range all {
			from, to := max(c.begin, call), ret
			if i+1 < len(all) && all[i+1].end != 0 {
				to = min(all[i+1].end, ret)
			}
			if c.value == value && from <= to {
				allowed[from-call]++
				allowed[to-call+1]--
			}
		}
		n, was := 0, 0
		for t, d := range allowed {
			n += d
			is := min(n, 1)
			can[t] += is - was
			was = is
		}
		if n != 0 {
			return fmt.Errorf("block %d: internal: %d", b, n)
		}
	}
	n, best := 0, 0
	for _, d := range can[:len(can)-1] {
		n += d
		best = max(best, n)
	}
	if best != len(l.blocks) {
		return fmt.Errorf("at no moment between %d and %d was the volume like that: at the best one %d blocks of %d", call, ret, best, len(l.blocks))
	}
	return nil
}

// A snapshot that is taken under load is what the volume was at one moment of the call, whichever way its changes go; the load itself is
// not harmed by it, and neither is the volume.
func TestSnapshotConsistent(t *testing.T) {
	for place, dir := range places(t) {
		for _, opts := range []string{"", "writer=off", "direct=on", "cache=writethrough"} {
			if place == "shm" && opts != "" || opts == "direct=on" && !hasDirect(t, dir) {
				continue
			}
			for _, attach := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s,%s,%v", place, opts, attach), func(t *testing.T) {
					path := filepath.Join(dir, fmt.Sprintf("d%s%v.img", opts, attach))
					st := openURI(t, fmt.Sprintf("file://%s?size=%d&%s", path, 9*pieceSize+3*snapBlock, opts))
					h := backstoretest.NewHarness(t, st, attach)
					defer h.Close()
					l := newLoad(h, 7)
					for range 200 {
						l.turn(16)
					}
					for _, name := range []string{"first", "second"} {
						steps, moment := 0, int64(0)
						done := make(chan error, 1)
						call := l.clock.Load()
						pass := make(chan struct{})
						go func() {
							done <- st.snapshot(context.Background(), name, nil, func(s string) error {
								switch s {
								case "moment":
									moment = l.clock.Load()
								case "span":
									<-pass // the load goes on between two pieces
								}
								return nil
							})
						}()
						var err error
						for running := true; running; steps++ {
							l.turn(16)
							select {
							case err = <-done:
								running = false
							case pass <- struct{}{}:
							default:
							}
						}
						ret := l.clock.Load()
						if err != nil {
							t.Fatal(err)
						}
						image, err := os.ReadFile(snapshotPath(path, name))
						if err != nil {
							t.Fatal(err)
						}
						if err := l.check(image, call, ret); err != nil {
							t.Errorf("%s: %v (%d turns)", name, err, steps)
						}
						if moment < call || moment > ret {
							t.Errorf("the moment %d is not within the call, %d to %d", moment, call, ret)
						}
						if err := l.check(image, moment, moment); err != nil {
							t.Errorf("%s at the moment itself: %v", name, err)
						}
						for range 50 {
							l.turn(16)
						}
					}
					l.settle()
					now, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					if err := l.check(now, l.clock.Load(), l.clock.Load()); err != nil {
						t.Errorf("the volume afterwards: %v", err)
					}
					if c := st.gate.entered.Load(); c != st.gate.left.Load()+st.counters.writesInline.Load() {
						t.Errorf("of %d changes, %d inline, %d are counted as ended", c, st.counters.writesInline.Load(), st.gate.left.Load())
					}
				})
			}
		}
	}
}

// While a change that passed the gate is under way there is no moment; what comes meanwhile waits, and reads do not.
func TestSnapshotDrains(t *testing.T) {
	st := openURI(t, "file://"+filepath.Join(diskDir(t), "d.img")+"?size=4M")
	h := backstoretest.NewHarness(t, st, true)
	defer h.Close()
	st.gate.enter() // as if the loop were within a write
	var released, early atomic.Bool
	done := make(chan error, 1)
	go func() {
		done <- st.snapshot(context.Background(), "s", nil, func(s string) error {
			if s == "moment" && !released.Load() {
				early.Store(true)
			}
			return nil
		})
	}()
	for st.gate.shot.Load() == nil && !early.Load() {
		h.Turn(time.Millisecond)
	}
	if early.Load() {
		t.Fatal("the moment came while a write was under way")
	}
	w := &backstore.Request{Op: backstore.Write, Len: snapBlock, Buf: bytes.Repeat([]byte{1}, snapBlock)}
	if out := h.Start(w); out != backstore.Pending {
		t.Fatalf("a write while a snapshot waits for others: outcome %d", out)
	}
	n := &backstore.Request{Op: backstore.Write, Flags: backstore.NoWait, Off: snapBlock, Len: snapBlock, Buf: w.Buf}
	if out := h.Start(n); out != backstore.WouldBlock {
		t.Fatalf("the same with NoWait: outcome %d", out)
	}
	for range 100 { // reads go on, the one at the write's place too: it is not written yet
		h.Want(0, make([]byte, snapBlock), "a read while a snapshot waits")
	}
	released.Store(true)
	st.gate.left.Add(1)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if r := h.Wait(); r != w || r.Err != nil {
		t.Fatalf("the write that waited: %v", r)
	}
	if early.Load() {
		t.Error("the moment came while a write was under way")
	}
	h.Want(0, w.Buf, "the volume")
	image, err := os.ReadFile(snapshotPath(st.path, "s"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(image, make([]byte, 4<<20)) {
		t.Error("the snapshot has a write that came after it")
	}
}

// Nor is there a moment while a change is under way that any earlier snapshot held, not only the last.
func TestSnapshotDrainsHeld(t *testing.T) {
	st := openURI(t, "file://"+filepath.Join(diskDir(t), "d.img")+"?size=4M")
	defer closeNow(t, st)
	slow := st.newShot()
	slow.held.Add(1) // as if a disk were at a write that it held
	st.gate.past = append(st.gate.past, slow)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 2 {
		err := st.snapshot(over, "s", nil, func(step string) error {
			if step == "moment" {
				t.Errorf("snapshot %d: the moment came while a held write was under way", i)
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("snapshot %d: %v", i, err)
		}
	}
	slow.held.Add(-1)
	if err := st.Snapshot(t.Context(), "s", nil); err != nil {
		t.Error(err)
	}
	if n := len(st.gate.past); n != 1 {
		t.Errorf("%d earlier snapshots are kept in mind, want the last", n)
	}
}

// A snapshot that fails or is cancelled leaves nothing, and no write of it fails or waits for ever.
func TestSnapshotFails(t *testing.T) {
	for _, c := range []struct {
		name  string
		stop  func(cancel func(), st *Store) error // at the third piece
		class backstore.Class
	}{
		{"cancelled", func(cancel func(), _ *Store) error { cancel(); return nil }, backstore.ClassCancelled},
		{"no space", func(func(), *Store) error { return unix.ENOSPC }, backstore.ClassNoSpace},
		{"unreadable", func(func(), *Store) error { return unix.EIO }, backstore.ClassMedium},
		{"closed", func(_ func(), st *Store) error { (*st.stopShot.Load())(errClosing); return nil }, backstore.ClassOffline},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := diskDir(t)
			st := openURI(t, fmt.Sprintf("file://%s?size=%d", filepath.Join(dir, "d.img"), 8*pieceSize))
			h := backstoretest.NewHarness(t, st, true)
			defer h.Close()
			h.Write(0, bytes.Repeat([]byte{5}, 8*pieceSize), 0)
			if ok := reflinks(t, dir); ok {
				return // nothing is copied here
			}
			l := newLoad(h, 3)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			done, n := make(chan error, 1), atomic.Int64{}
			go func() {
				done <- wrap("snapshot", st.snapshot(ctx, "s", nil, func(s string) error {
					if s == "span" {
						if n.Add(1) == 3 {
							return c.stop(cancel, st)
						}
					}
					return nil
				}))
			}()
			var err error
			for running := true; running; {
				l.turn(8)
				select {
				case err = <-done:
					running = false
				default:
				}
			}
			l.settle()
			h.WantClass(err, c.class, "the snapshot")
			if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
				t.Errorf("what is left: %v, %v", list, err)
			}
			if err := st.Snapshot(context.Background(), "s", nil); err != nil {
				t.Errorf("the next one: %v", err)
			}
		})
	}
}

func reflinks(t testing.TB, dir string) bool {
	t.Helper()
	var fds [2]int
	for i := range fds {
		fd, err := unix.Open(filepath.Join(dir, fmt.Sprintf("reflink%d", i)), unix.O_RDWR|unix.O_CREAT, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		defer os.Remove(filepath.Join(dir, fmt.Sprintf("reflink%d", i)))
		fds[i] = fd
	}
	if _, err := unix.Pwrite(fds[0], make([]byte, snapBlock), 0); err != nil {
		t.Fatal(err)
	}
	ok, err := reflink(fds[1], fds[0])
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// What a store refuses to take a snapshot of, and why.
func TestSnapshotRefused(t *testing.T) {
	dir := diskDir(t)
	path := filepath.Join(dir, "d.img")
	st := openURI(t, "file://"+path+"?size=1M")
	h := backstoretest.NewHarness(t, st, false)
	for _, name := range []string{"", ".", "..", "../x", "a/b", ".hidden", "-x", "a b", "a\x00b", "é", string(bytes.Repeat([]byte{'a'}, maxSnapshotName+1))} {
		h.WantClass(st.Snapshot(context.Background(), name, nil), backstore.ClassRange, fmt.Sprintf("name %q", name))
	}
	if err := st.Snapshot(context.Background(), "s", nil); err != nil {
		t.Fatal(err)
	}
	h.WantClass(st.Snapshot(context.Background(), "s", nil), backstore.ClassBusy, "a name that is taken")
	st.gate.taking.Lock()
	h.WantClass(st.Snapshot(context.Background(), "t", nil), backstore.ClassBusy, "another at the same time")
	st.gate.taking.Unlock()
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	h.WantClass(st.Snapshot(context.Background(), "t", nil), backstore.ClassNotFound, "a file without its name")
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	st.failed.Store(true)
	h.WantClass(st.Snapshot(context.Background(), "t", nil), backstore.ClassMedium, "a store that has failed")
	st.failed.Store(false)
	st.gate.shot.Store(st.newShot())
	h.WantClass(st.Resize(context.Background(), 2<<20), backstore.ClassBusy, "a resize while a snapshot is taken")
	st.gate.shot.Store(nil)
	h.Close()
	h.WantClass(st.Snapshot(context.Background(), "t", nil), backstore.ClassOffline, "a closed store")
	_, err := tryURI("file://" + snapshotPath(path, "s"))
	h.WantClass(err, backstore.ClassReadOnly, "a snapshot opened for writing")
	ro := openURI(t, "file://"+snapshotPath(path, "s")+"?readonly")
	if err := ro.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if !reflinks(t, dir) {
		for _, opt := range []string{"shared=on", "readonly"} {
			st := openURI(t, "file://"+path+"?"+opt)
			h.WantClass(st.Snapshot(context.Background(), "u", nil), backstore.ClassUnsupported, opt+" where a copy is needed")
			if err := st.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if list, err := snapshots(path); err != nil || len(list) != 1 || list[0].Size != 1<<20 || time.Since(list[0].Created) > time.Hour {
		t.Errorf("snapshots %+v, %v", list, err)
	}
}

// A snapshot of a store is closed with it: Close does not let go of the lock before.
func TestCloseEndsSnapshot(t *testing.T) {
	dir := diskDir(t)
	st := openURI(t, "file://"+filepath.Join(dir, "d.img")+"?size=4M")
	h := backstoretest.NewHarness(t, st, true)
	h.Write(0, bytes.Repeat([]byte{1}, 4<<20), 0)
	at, stopped, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- st.snapshot(context.Background(), "s", nil, func(s string) error {
			if s != "moment" {
				return nil
			}
			stop := *st.stopShot.Load()
			seen := context.CancelCauseFunc(func(err error) {
				stop(err)
				close(stopped)
			})
			st.stopShot.Store(&seen)
			close(at)
			<-stopped
			return nil
		})
	}()
	<-at
	h.Close()
	if err := <-done; err == nil || !errors.Is(err, backstore.ErrClosed) && !reflinks(t, dir) {
		t.Errorf("the snapshot: %v", err)
	}
}
