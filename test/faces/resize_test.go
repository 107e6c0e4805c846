package faces

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

var lun1 = sam.NewLUN(1)

// capacityChanged is CAPACITY DATA HAS CHANGED.
func capacityChanged(res *initiator.Result) bool {
	key, asc, ascq, ok := initiator.SenseFields(res.Sense)
	return ok && key == 6 && asc == 0x2a && ascq == 9
}

// A loaded session writes and reads back all the time, several commands at once, in a part of the disk of its own.
type loaded struct {
	s    *initiator.Session
	n    uint32
	told atomic.Int64 // unit attentions for another capacity
	ios  atomic.Int64
}

const atOnce = 6

// run goes on until stop is closed. A command that ends with the unit attention is sent again; everything else but GOOD is an error.
func (l *loaded) run(ctx context.Context, stop <-chan struct{}) error {
	for round := uint32(0); ; round++ {
		select {
		case <-stop:
			return nil
		default:
		}
		data := func(i uint32) []byte { return bytes.Repeat([]byte{byte(l.n), byte(round), byte(i), 0xa5}, 1024) }
		for _, write := range []bool{true, false} {
			left := map[uint32]*initiator.Task{}
			start := func(i uint32) error {
				op, out, in := byte(cdb.Read10), []byte(nil), 4096
				if write {
					op, out, in = cdb.Write10, data(i), 0
				}
				b := cdb.Transfer(op, uint64(l.n*2048+(round%40*atOnce+i)*8), 8, 0)
				t, err := l.s.Start(lun1, b[:10], out, in)
				left[i] = t
				return err
			}
			for i := range uint32(atOnce) {
				if err := start(i); err != nil {
					return err
				}
			}
			for len(left) != 0 {
				for i, t := range maps.Clone(left) {
					res, err := t.Wait(ctx)
					delete(left, i)
					switch {
					case err != nil:
						return err
					case capacityChanged(&res):
						l.told.Add(1)
						err = start(i)
					case res.Err() != nil:
						return res.Err()
					case !write && !bytes.Equal(res.Data, data(i)):
						return fmt.Errorf("round %d: block %d holds %x…", round, i, res.Data[:8])
					}
					if err != nil {
						return err
					}
					l.ios.Add(1)
				}
			}
		}
	}
}

// ready takes the unit attentions that wait for a new session.
func (p *place) ready(s *initiator.Session) {
	p.Helper()
	for {
		res, err := s.Command(p.ctx(), lun1, initiator.TestUnitReady(), nil, 0)
		if err != nil {
			p.Fatal(err)
		}
		if res.Err() == nil {
			return
		}
	}
}

// told is how often a session is told of another capacity before a command of its is carried out.
func (p *place) told(s *initiator.Session) (n int) {
	p.Helper()
	for {
		res, err := s.Command(p.ctx(), lun1, initiator.TestUnitReady(), nil, 0)
		switch {
		case err != nil:
			p.Fatal(err)
		case res.Err() == nil:
			return n
		case !capacityChanged(&res):
			p.Fatal(res.Err())
		}
		n++
	}
}

// size asks a session for the capacity in bytes.
func (p *place) size(s *initiator.Session) int64 {
	p.Helper()
	res, err := s.Command(p.ctx(), lun1, initiator.ReadCapacity16(32), nil, 32)
	if err != nil || res.Err() != nil {
		p.Fatal("READ CAPACITY(16): ", err, res.Err())
	}
	return int64((be(res.Data[:8]) + 1) * be(res.Data[8:12]))
}

// A disk grows under load through every face. READ CAPACITY tells the new size at once, each nexus hears of each change once, no command is lost,
// the new blocks can be used, and the sessions are those that there were. It does not become smaller unless somebody forces it.
func TestResizeUnderLoad(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	one := iqn + "grows"
	path := p.file("disk", 8<<20)
	p.adm("--op new --mode target --tid 1 -T " + one)
	p.adm("--op new --mode logicalunit --tid 1 --lun 1 -b " + path)
	p.adm("--op bind --mode target --tid 1 -I ALL")
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	stop := make(chan struct{})
	var load sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); load.Wait() })
	defer end()
	quiet := p.login(9, one)
	p.ready(quiet)
	var all []*loaded
	for n := range uint32(3) {
		l := &loaded{s: p.login(byte(n+1), one), n: n}
		p.ready(l.s)
		all = append(all, l)
		load.Go(func() {
			if err := l.run(ctx, stop); err != nil {
				t.Errorf("session %d: %v", l.n, err)
			}
		})
	}
	before := p.tsih()
	auto := "--op update --mode logicalunit --tid 1 --lun 1 --params disksize=auto"
	for i, step := range []struct {
		what string
		size int64
		do   func()
	}{
		{"tgtadm, disksize=auto", 12 << 20, func() { p.truncate(path, 12<<20); p.adm(auto) }},
		{"lunarctl, a size", 16 << 20, func() { p.ctl("lun", "resize", one, "1", "16M") }},
		{"lunarctl, more", 20 << 20, func() { p.ctl("lun", "resize", "1", "1", "+4M") }},
		{"lunarctl, auto", 24 << 20, func() { p.truncate(path, 24<<20); p.ctl("lun", "resize", one, "1") }},
	} {
		step.do()
		if told := p.told(quiet); told != 1 {
			t.Errorf("%s: an idle session was told %d times", step.what, told)
		}
		if got := p.size(quiet); got != step.size {
			t.Errorf("%s: READ CAPACITY tells %d bytes, want %d", step.what, got, step.size)
		}
		last := cdb.Transfer(cdb.Write10, uint64(step.size/512-8), 8, 0)
		want := bytes.Repeat([]byte{byte(i), 1, 2, 3}, 1024)
		if res, err := quiet.Command(ctx, lun1, last[:10], want, 0); err != nil || res.Err() != nil {
			t.Errorf("%s: the last block: %v, %v", step.what, err, res.Err())
		}
		last[0] = cdb.Read10
		if res, err := quiet.Command(ctx, lun1, last[:10], nil, 4096); err != nil || !bytes.Equal(res.Data, want) {
			t.Errorf("%s: the last block holds something else: %v, %v", step.what, err, res.Err())
		}
		for _, l := range all { // before the next change: several may be told as one
			for l.told.Load() == int64(i) && ctx.Err() == nil && !t.Failed() {
				p.ready(quiet)
			}
		}
	}
	p.ctlRefused("force", "lun", "resize", one, "1", "8M")
	if got := p.size(quiet); got != 24<<20 {
		t.Errorf("refused, and the disk has %d bytes", got)
	}
	end()
	for _, l := range all {
		if l.told.Load() != 4 || l.ios.Load() == 0 || l.s.Err() != nil {
			t.Errorf("session %d was told %d times of 4 changes, beside %d commands; its end: %v", l.n, l.told.Load(), l.ios.Load(), l.s.Err())
		}
	}
	if now := p.tsih(); !maps.Equal(before, now) {
		t.Errorf("the sessions are %v, were %v", now, before)
	}
	p.ctl("lun", "resize", one, "1", "8M", "--force")
	told := p.told(quiet)
	if got := p.size(quiet); got != 8<<20 || told != 1 {
		t.Errorf("forced, and the disk has %d bytes; told %d times", got, told)
	}
}
