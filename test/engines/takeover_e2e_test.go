//go:build e2e

package engines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/ceph"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/history"
)

const (
	// watchTimeout is how long Ceph waits for a client that is gone without a word; nobody else can write its image until then.
	watchTimeout = 30 * time.Second
	// takenWithin is the goal for a take-over, from the end of the one to a write of the other.
	takenWithin = 3 * time.Second
	ownerKey    = "lunar.owner" // of an image's metadata: which process has it open
	late        = 8             // writes that reach a frozen lunard
)

// TestTakeOver: a lunard that has an image dies, or freezes, and another one serves the image on.
func TestTakeOver(t *testing.T) {
	c := ceph.Start(t, ceph.Config{})
	in := &rbdInstance{c: c}
	t.Run("killed, waited for", func(t *testing.T) {
		p := newPair(t, in)
		p.crash(t)
		took := p.landed(t, 3*watchTimeout)
		t.Logf("without the fence: %v from the kill to a write", took.Round(10*time.Millisecond))
		if took < watchTimeout/2 {
			t.Errorf("a write after %v: who had the image was not waited for", took)
		}
		p.goOn(t)
	})
	t.Run("killed, on the same machine", func(t *testing.T) {
		p := newPair(t, in)
		p.neighbours(t)
		p.crash(t)
		took := p.landed(t, 3*watchTimeout)
		t.Logf("without the fence, on one machine: %v from the kill to a write", took.Round(10*time.Millisecond))
		if took > watchTimeout/2 {
			t.Errorf("a write after %v: that the process was gone could be seen", took)
		}
		p.goOn(t)
	})
	t.Run("killed, shut out", func(t *testing.T) {
		p := newPair(t, in)
		p.crash(t)
		p.takeOver(t)
		took := p.landed(t, healing)
		t.Logf("with the fence: %v from the kill to a write", took.Round(10*time.Millisecond))
		if took > takenWithin {
			t.Errorf("a write after %v, want one within %v", took, takenWithin)
		}
		p.goOn(t)
	})
	t.Run("frozen, shut out", func(t *testing.T) {
		p := newPair(t, in)
		took, data := p.freeze(t)
		t.Logf("with the fence: %v from the freeze to a write", took.Round(10*time.Millisecond))
		if took > takenWithin {
			t.Errorf("a write after %v, want one within %v", took, takenWithin)
		}
		p.wake(t)
		if got := p.read(t); !bytes.Equal(got, data) {
			i := 0
			for got[i] == data[i] {
				i++
			}
			t.Errorf("after the other has woken up, block %d holds what it has written", i/blockSize)
		}
	})
}

// A pair is two lunards with one volume: the first has it open, the second waits for it.
type pair struct {
	in            *rbdInstance
	image, owner  string // the image, and what it says of who has it open
	first, second *daemon.Daemon
	socket        string // of the second's administrators
	h             *history.History
	load          *load // on the first
	from          time.Time
	// Of the first when it is frozen: a session, and the writes it was sent then.
	session *initiator.Session
	sent    []*initiator.Task
}

func newPair(t *testing.T, in *rbdInstance) *pair {
	t.Helper()
	dir, err := os.MkdirTemp("", "lunar") // the test's own folder may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	daemon.Lunarctl(t) // built before anything is timed
	uri := in.Volume(t, 64<<20)
	export := daemon.Export(disk, uri)
	p := &pair{in: in, image: imageOf(uri), socket: "unix:" + filepath.Join(dir, "admin"), h: newHistory()}
	p.first = rbdLunard(t, "127.0.0.1:0", export)
	p.second = rbdLunard(t, "127.0.0.1:0", "--listen-admin="+p.socket, export+"&away=offline")
	p.load = startLoad(t, p.first, disk, p.h, true)
	p.load.progress(t, 200, healing)
	// Without what the first has left in the image of itself, the second takes it for a process of another machine.
	p.owner, err = in.c.RBD("image-meta", "get", p.image, ownerKey)
	done(t, err)
	done(t, in.rbd("image-meta", "remove", p.image, ownerKey))
	return p
}

// neighbours has the second see that the first is a process of its own machine.
func (p *pair) neighbours(t *testing.T) {
	t.Helper()
	done(t, p.in.rbd("image-meta", "set", p.image, ownerKey, strings.TrimSpace(p.owner)))
}

// crash kills the first under load.
func (p *pair) crash(t *testing.T) {
	t.Helper()
	p.from = time.Now()
	p.first.Kill(t)
	<-p.load.broken
	p.load.cancel()
	p.load.wg.Wait()
	if isViolation(p.load.err) {
		t.Fatal(p.load.err)
	}
}

func (p *pair) takeOver(t *testing.T) {
	t.Helper()
	lunarctl(t, "--server="+p.socket, "lun", "takeover", daemon.Prefix+disk, "1")
}

// landed waits for the first write by the second, and returns how long after p.from that was. What the first has not answered is settled then.
func (p *pair) landed(t *testing.T, limit time.Duration) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	s, err := login(ctx, p.second, disk, 40)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for {
		op := p.h.Write(40, 0, 8, false, "WRITE(10)")
		data := make([]byte, 8*blockSize)
		op.Fill(data)
		b := cdb.Transfer(cdb.Write10, 0, 8, 0)
		res, err := s.Command(ctx, lun1, b[:10], data, 0)
		if err != nil {
			t.Fatalf("no write by the second within %v: %v", limit, err)
		}
		if res.Err() == nil {
			took := time.Since(p.from)
			done(t, op.Done(nil))
			done(t, p.h.SettleAll())
			return took
		}
		done(t, op.Refused()) // NOT READY
		select {
		case <-ctx.Done():
			t.Fatalf("no write by the second within %v: %v", limit, res.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// goOn checks what the first has left behind, and goes on with it.
func (p *pair) goOn(t *testing.T) {
	t.Helper()
	p.load.verify(t, p.second, disk)
	l := startLoad(t, p.second, disk, p.h, false)
	l.progress(t, 500, healing)
	l.stop(t)
	l.verify(t, p.second, disk)
	p.second.Stop(t)
}

// freeze stops the first under load, sends it some more writes, has the second take over, and writes everything by the second: what that
// was is returned.
func (p *pair) freeze(t *testing.T) (took time.Duration, data []byte) {
	t.Helper()
	s, err := login(t.Context(), p.first, disk, 41)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	p.session = s
	p.from = time.Now()
	p.first.Signal(t, syscall.SIGSTOP)
	t.Cleanup(func() { _ = syscall.Kill(p.first.PID(), syscall.SIGCONT) }) // whatever fails: its load waits for it
	p.load.cancel()                                                        // what is in flight stays so
	for i := range late {
		b := cdb.Transfer(cdb.Write10, uint64(i*64), 32, 0)
		task, err := s.Start(lun1, b[:10], bytes.Repeat([]byte{0xee}, 32*blockSize), 0)
		if err != nil {
			t.Fatal(err)
		}
		p.sent = append(p.sent, task)
	}
	p.takeOver(t)
	took = p.landed(t, healing)
	data = make([]byte, loadBlocks*blockSize)
	for i := range data {
		data[i] = byte(i>>9) ^ byte(i)
	}
	p.each(t, cdb.Write10, func(at, n int) []byte { return data[at : at+n] }, nil)
	return took, data
}

// wake lets the first go on until it has answered all: what it was sent while it was frozen cannot be there, and it says so.
func (p *pair) wake(t *testing.T) {
	t.Helper()
	p.first.Signal(t, syscall.SIGCONT)
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	for _, task := range p.sent {
		if res, err := task.Wait(ctx); err == nil && res.Err() == nil {
			t.Error("a write that reached a lunard when it was shut out was acknowledged")
		} else if ctx.Err() != nil {
			t.Fatalf("a lunard that was shut out does not answer: %v", err)
		}
	}
	p.load.wg.Wait()
	select {
	case <-p.load.broken:
		if isViolation(p.load.err) {
			t.Error(p.load.err)
		}
	default:
	}
}

// read reads all blocks by the second.
func (p *pair) read(t *testing.T) (data []byte) {
	t.Helper()
	p.each(t, cdb.Read10, nil, func(b []byte) { data = append(data, b...) })
	return data
}

// each does a command for each part of the load's blocks, by the second.
func (p *pair) each(t *testing.T, code byte, out func(at, n int) []byte, in func([]byte)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	s, err := login(ctx, p.second, disk, 42)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const step = 256
	for lba := 0; lba < loadBlocks; lba += step {
		b := cdb.Transfer(code, uint64(lba), step, 0)
		var data []byte
		want := step * blockSize
		if out != nil {
			data, want = out(lba*blockSize, step*blockSize), 0
		}
		res, err := s.Command(ctx, lun1, b[:10], data, want)
		if err == nil {
			err = res.Err()
		}
		if err != nil {
			t.Fatal(fmt.Errorf("blocks %d to %d by the second: %w", lba, lba+step, err))
		}
		if in != nil {
			in(res.Data)
		}
	}
}

func isViolation(err error) bool {
	var v *history.Violation
	return errors.As(err, &v)
}
