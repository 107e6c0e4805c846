package target

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/faulty"
	"github.com/lunar-iscsi/lunar/backstore/file"
	"github.com/lunar-iscsi/lunar/backstore/mem"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// capacity asks for the size of a disk, in bytes.
func (r *rig) capacity(s *initiator.Session, lun sam.LUN) int64 {
	r.t.Helper()
	res, err := s.Command(r.ctx(), lun, initiator.ReadCapacity16(32), nil, 32)
	if err != nil || res.Err() != nil {
		r.t.Fatal("READ CAPACITY(16):", err, res.Err())
	}
	return int64(binary.BigEndian.Uint64(res.Data)+1) * int64(binary.BigEndian.Uint32(res.Data[8:]))
}

// follows waits until a session of its own sees a disk of size bytes.
func (r *rig) follows(n byte, lun sam.LUN, size int64) {
	r.t.Helper()
	s := r.login(n)
	defer s.Close()
	for end := r.ctx(); end.Err() == nil; {
		res, err := s.Command(end, lun, initiator.ReadCapacity16(32), nil, 32)
		if err != nil {
			r.t.Fatal(err)
		}
		if res.Status == sam.Good && int64(binary.BigEndian.Uint64(res.Data)+1)*int64(binary.BigEndian.Uint32(res.Data[8:])) == size {
			return
		}
	}
	r.t.Fatalf("the disk does not get a size of %d bytes", size)
}

// fileStore makes a file of size bytes and opens it.
func fileStore(t *testing.T, size string) (*file.Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "d.img")
	u, err := backstore.ParseURI("file://" + path + "?size=" + size)
	if err != nil {
		t.Fatal(err)
	}
	st, err := file.Driver().Open(context.Background(), u, backstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return st.(*file.Store), path
}

// TestResizeUnderLoad: a disk grows again and again while sessions read and write it. Nobody is logged out, no command fails but by the
// unit attention, of which each nexus has one for each change at most, the last one in any case; READ CAPACITY tells the new size at
// once, and the new blocks can be used.
func TestResizeUnderLoad(t *testing.T) {
	for name, open := range map[string]func() backstore.Store{
		"mem":  func() backstore.Store { return newStore(t, "") },
		"file": func() backstore.Store { st, _ := fileStore(t, "8M"); return st },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{}, "")
			if err := r.tg.AddDisk(2, open(), scsi.DiskConfig{Identity: "grows"}); err != nil {
				t.Fatal(err)
			}
			const sessions, changes = 3, 20
			lun2 := sam.NewLUN(2)
			var clients sync.WaitGroup
			stop := make(chan struct{})
			told := make([]int, sessions)
			var all [sessions]*initiator.Session
			for n := range all {
				s := r.login(byte(n + 1))
				r.readyAt(s, lun2)
				all[n] = s
				clients.Add(1)
				go func() {
					defer clients.Done()
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						lba, data := uint32(n*4096+i%500*8), block(byte('a'+i%26), 8)
						for _, cdb := range [][]byte{write10(lba, 8), read10(lba, 8)} {
							for {
								out, in := data, 0
								if cdb[0] == 0x28 {
									out, in = nil, len(data)
								}
								res, err := s.Command(r.ctx(), lun2, cdb, out, in)
								if err != nil {
									t.Error(err)
									return
								}
								if key, asc, ascq, _ := initiator.SenseFields(res.Sense); key == 6 && asc == 0x2a && ascq == 9 {
									told[n]++
									continue
								}
								if res.Err() != nil || cdb[0] == 0x28 && !bytes.Equal(res.Data, data) {
									t.Errorf("%x: %v, or other data", cdb, res.Err())
									return
								}
								break
							}
						}
					}
				}()
			}
			admin := r.login(sessions + 1)
			r.readyAt(admin, lun2)
			for i := range changes {
				want := int64(testSize + (i+1)<<20)
				got, err := r.tg.ResizeDisk(r.ctx(), 2, want, false)
				if err != nil || got != want {
					t.Fatalf("%d bytes: %v", got, err)
				}
				if got := r.next(admin, lun2); got != 0x2a09 {
					t.Fatalf("told %04x", got)
				}
				if got := r.next(admin, lun2); got != 0 {
					t.Fatalf("told %04x a second time", got)
				}
				if got := r.capacity(admin, lun2); got != want {
					t.Fatalf("READ CAPACITY tells %d bytes, want %d", got, want)
				}
				last := uint32(want/512 - 8)
				if res, err := admin.Command(r.ctx(), lun2, write10(last, 8), block('z', 8), 0); err != nil || res.Err() != nil {
					t.Fatal("the new end:", err, res.Err())
				}
			}
			close(stop)
			clients.Wait()
			for n, s := range all {
				if r.next(s, lun2) == 0x2a09 {
					told[n]++
				}
				if told[n] == 0 || told[n] > changes || s.Err() != nil {
					t.Errorf("session %d was told %d times of %d changes, and is %v", n, told[n], changes, s.Err())
				}
				if got := r.next(s, lun2); got != 0 {
					t.Errorf("session %d is told %04x once more", n, got)
				}
			}
		})
	}
}

// TestShrink: a disk shrinks only by force; what the store has beyond the new end is waited for, what waits for its turn there is not
// carried out, and when the waiting is over before the request nothing has changed.
func TestShrink(t *testing.T) {
	r := newRig(t, Config{}, "write hang count=1")
	s, o := r.login(1), r.login(2)
	const half, lastLBA = testSize / 2, testSize/512 - 8
	if _, err := r.tg.ResizeDisk(r.ctx(), 1, half, false); !errors.Is(err, ErrWouldShrink) || !strings.Contains(err.Error(), "from 8388608 to 4194304 bytes") {
		t.Fatal(err)
	}
	if got := r.next(s, lun1); got != 0 || r.capacity(s, lun1) != testSize {
		t.Fatalf("what was refused did something: %04x", got)
	}
	hung, err := s.Start(lun1, write10(lastLBA, 8), block('a', 8), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.Wait(r.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	behind, err := o.Start(lun1, write10(lastLBA, 8), block('b', 8), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Ping(r.ctx(), nil); err != nil { // the write has come
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(r.ctx(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.tg.ResizeDisk(short, 1, half, true); !errors.Is(err, ErrLUNInUse) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal("with a request beyond the new end:", err)
	}
	if got := r.next(s, lun1); got != 0x2a09 || r.capacity(s, lun1) != testSize {
		t.Fatalf("after a change that was given up: %04x", got)
	}
	done := make(chan error, 1)
	go func() {
		_, err := r.tg.ResizeDisk(r.ctx(), 1, half, true)
		done <- err
	}()
	r.follows(3, lun1, half) // the disk shrinks ahead of its store
	if got := r.store.Info().Size; got != testSize {
		t.Errorf("the store was cut off, to %d bytes, below a write", got)
	}
	r.store.Release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if res, err := hung.Wait(r.ctx()); err != nil || res.Err() != nil {
		t.Error("the write that the store had:", err, res.Err())
	}
	res, err := behind.Wait(r.ctx())
	if key, asc, _, _ := initiator.SenseFields(res.Sense); err != nil || key != 5 || asc != 0x21 {
		t.Errorf("a write that waited and lies beyond the new end: %v, %v", err, res.Err())
	}
	if got := r.store.Info().Size; got != half {
		t.Errorf("the store has %d bytes", got)
	}
	if _, err := r.tg.ResizeDisk(r.ctx(), 1, testSize, false); err != nil {
		t.Fatal(err)
	}
	r.ready(s)
	if got := r.read(s, lastLBA, 8); !bytes.Equal(got, make([]byte, 4096)) {
		t.Errorf("behind the end something was left: %q", got[:16])
	}
}

// TestResizeAuto: size 0 takes over what the volume has by now, in whole blocks.
func TestResizeAuto(t *testing.T) {
	r := newRig(t, Config{}, "")
	st, path := fileStore(t, "8M")
	if err := r.tg.AddDisk(2, st, scsi.DiskConfig{Identity: "file", LogicalBlock: 4096}); err != nil {
		t.Fatal(err)
	}
	s, lun2 := r.login(1), sam.NewLUN(2)
	r.readyAt(s, lun2)
	for _, k := range []struct {
		file, want int64
		force      bool
		err        error
		told       int
	}{
		{8 << 20, 8 << 20, false, nil, 0},
		{12<<20 + 4095, 12 << 20, false, nil, 0x2a09},
		{6<<20 + 1, 12 << 20, false, ErrWouldShrink, 0},
		{6<<20 + 1, 6 << 20, true, nil, 0x2a09},
	} {
		if err := os.Truncate(path, k.file); err != nil {
			t.Fatal(err)
		}
		got, err := r.tg.ResizeDisk(r.ctx(), 2, 0, k.force)
		if got != k.want || !errors.Is(err, k.err) {
			t.Errorf("a file of %d bytes: %d, %v", k.file, got, err)
		}
		if told := r.next(s, lun2); told != k.told || r.capacity(s, lun2) != k.want {
			t.Errorf("a file of %d bytes: told %04x, and the disk has %d", k.file, told, r.capacity(s, lun2))
		}
		if fi, err := os.Stat(path); err != nil || fi.Size() != k.file {
			t.Errorf("the file of %d bytes has %d now (%v)", k.file, fi.Size(), err)
		}
	}
	for _, size := range []int64{-1, 512, 1<<20 + 1} {
		if _, err := r.tg.ResizeDisk(r.ctx(), 2, size, true); backstore.ClassOf(err) != backstore.ClassRange {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if _, err := r.tg.ResizeDisk(r.ctx(), 9, 0, true); !errors.Is(err, ErrNoLUN) {
		t.Error(err)
	}
}

// rigid is a store that has one size.
type rigid struct{ backstore.Store }

// TestResizeRefused: a store that cannot resize says so, and one that fails to leaves the disk as it was.
func TestResizeRefused(t *testing.T) {
	r := newRig(t, Config{}, "")
	if err := r.tg.AddDisk(2, rigid{newStore(t, "")}, scsi.DiskConfig{Identity: "rigid"}); err != nil {
		t.Fatal(err)
	}
	m, err := mem.New(mem.Config{Size: testSize, BlockSize: 512, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.tg.AddDisk(3, m, scsi.DiskConfig{Identity: "fixed"}); err != nil {
		t.Fatal(err)
	}
	s := r.login(1)
	for lun, class := range map[uint16]backstore.Class{2: backstore.ClassUnsupported, 3: backstore.ClassReadOnly} {
		r.readyAt(s, sam.NewLUN(lun))
		for _, size := range []int64{2 * testSize, testSize / 2} {
			if got, err := r.tg.ResizeDisk(r.ctx(), lun, size, true); got != testSize || backstore.ClassOf(err) != class {
				t.Errorf("LUN %d, %d bytes: %d, %v", lun, size, got, err)
			}
			if got := r.capacity(s, sam.NewLUN(lun)); got != testSize {
				t.Errorf("LUN %d has %d bytes", lun, got)
			}
		}
	}
}

// TestVolumeResizedBehind: a disk follows a store that says that its size has changed, both ways, and says so in the log where data is lost.
func TestVolumeResizedBehind(t *testing.T) {
	log := &lines{}
	r := newRig(t, Config{Logger: log}, "")
	m, err := mem.New(mem.Config{Size: testSize, BlockSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	st, err := faulty.New(m, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.tg.AddDisk(2, st, scsi.DiskConfig{Identity: "own"}); err != nil {
		t.Fatal(err)
	}
	s, lun2 := r.login(1), sam.NewLUN(2)
	r.readyAt(s, lun2)
	for _, size := range []int64{2 * testSize, testSize / 2} {
		if err := m.Resize(r.ctx(), size); err != nil {
			t.Fatal(err)
		}
		r.follows(2, lun2, size)
		if got := r.next(s, lun2); got != 0x2a09 {
			t.Errorf("told %04x", got)
		}
	}
	if !log.has("a volume has shrunk by itself") {
		t.Error("nothing about it in the log")
	}
}
