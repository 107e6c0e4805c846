package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// A noisyConn cuts what is written into pieces and, once it is armed, turns a bit in some of them.
type noisyConn struct {
	net.Conn
	armed atomic.Bool
	rnd   *rand.Rand // the writer's
	every int        // bytes between two wrong bits, about; 0: none
}

func (c *noisyConn) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n := min(len(b)-done, 1+c.rnd.IntN(3000))
		if c.rnd.IntN(4) == 0 {
			n = min(n, 1+c.rnd.IntN(60))
		}
		piece := bytes.Clone(b[done : done+n])
		if c.every != 0 && c.armed.Load() && c.rnd.IntN(c.every) < n {
			piece[c.rnd.IntN(n)] ^= 1 << c.rnd.IntN(8)
		}
		if _, err := c.Conn.Write(piece); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// With both digests a wrong bit anywhere in what the initiator sends is never written and never taken for something else:
// every region holds what was acknowledged last, or what was sent since without an answer. However the stream is cut.
func TestNoise(t *testing.T) {
	for _, every := range []int{0, 20000} {
		for _, pair := range digestPairs {
			if every != 0 && pair != (digestPair{true, true}) {
				continue
			}
			for _, seed := range []uint64{0, 3} {
				t.Run(fmt.Sprintf("%v, a bit in %d, seed %d", pair, every, seed), func(t *testing.T) {
					noise(t, pair, every, seed)
				})
			}
		}
	}
}

func noise(t *testing.T, pair digestPair, every int, seed uint64) {
	const regions, size, turns = 8, 256, 200 // size in blocks
	rules := ""
	if seed%2 == 1 {
		rules = "any pending"
	}
	cfg := Config{}
	if every != 0 {
		// A length that is wrong has the target wait for more than there is, until it asks whether there is anybody.
		cfg.Limit = session.Limits{NOPInterval: int64(100 * time.Millisecond), NOPTimeout: int64(500 * time.Millisecond)}
	}
	r := newRig(t, cfg, rules)
	quiet := r.login(9)
	rnd := rand.New(rand.NewPCG(seed, 1))
	p := initiator.DefaultOffer()
	p.HeaderDigest, p.DataDigest = pair.header, pair.data
	p.ImmediateData, p.InitialR2T = seed&1 == 0, seed&2 != 0
	p.FirstBurstLength, p.MaxRecvDataSegmentLength = 32<<10, 40961
	o := r.options(1)
	o.Offer = &p
	var nc *noisyConn
	o.Dial = func(ctx context.Context, portal string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", portal)
		nc = &noisyConn{Conn: c, rnd: rand.New(rand.NewPCG(rnd.Uint64(), 2)), every: every}
		return nc, err
	}
	var s *initiator.Session
	open := func() {
		t.Helper()
		if s != nil {
			s.Close()
		}
		var err error
		if s, err = initiator.Login(r.ctx(), o); err != nil {
			t.Fatal(err)
		}
		r.ready(s)
		nc.armed.Store(true)
	}
	open()
	defer func() { s.Close() }()
	var may [regions][][]byte // what a region may hold
	for i := range may {
		may[i] = [][]byte{make([]byte, size*512)}
	}
	lost, failed := 0, 0
	for turn := range turns {
		i, blocks := rnd.IntN(regions), uint16(1+rnd.IntN(size))
		lba := uint32(i * size)
		if rnd.IntN(2) == 0 {
			res, err := s.Command(r.ctx(), lun1, read10(lba, blocks), nil, int(blocks)*512)
			if err != nil {
				lost++
				open()
				continue
			}
			if !oneOf(may[i], res.Data) {
				t.Fatalf("turn %d: region %d holds what was never written there", turn, i)
			}
			continue
		}
		data := pattern(turn, int(blocks))
		res, err := s.Command(r.ctx(), lun1, write10(lba, blocks), data, 0)
		if errors.Is(err, context.DeadlineExceeded) {
			t.Fatal("a write hangs")
		}
		if err == nil {
			err = res.Err()
			if err != nil {
				failed++ // nothing of it may be there
				continue
			}
		}
		var next [][]byte
		for _, m := range may[i] {
			n := bytes.Clone(m)
			copy(n, data)
			next = append(next, n)
			if err != nil {
				next = append(next, m)
			}
		}
		may[i] = next
		if err != nil {
			lost++
			open()
			// What came of it is settled now: a session that is over takes no more.
			now := r.read(quiet, lba, size)
			if !oneOf(may[i], now) {
				t.Fatalf("turn %d: region %d holds what was never written there", turn, i)
			}
			may[i] = [][]byte{now}
		}
	}
	for i := range may {
		if !oneOf(may[i], r.read(quiet, uint32(i*size), size)) {
			t.Fatalf("region %d holds what was never written there", i)
		}
	}
	if every == 0 && lost+failed != 0 || every != 0 && lost == 0 {
		t.Fatalf("%d sessions lost, %d commands failed", lost, failed)
	}
}

// oneOf reports whether got is the start of one of them.
func oneOf(may [][]byte, got []byte) bool {
	for _, m := range may {
		if bytes.HasPrefix(m, got) {
			return true
		}
	}
	return false
}
