package target

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// A tally is what an initiator counts by itself of its commands at one LUN.
type tally struct {
	LUNStats
	errors map[string]uint64
	conn   ConnCounters
}

func newTally(lun uint16) *tally {
	return &tally{LUNStats: LUNStats{LUN: lun}, errors: map[string]uint64{}}
}

// began counts a command that is sent.
func (y *tally) began(op byte, out, in int) {
	y.conn.Commands++
	switch n := uint64(max(out, in)); {
	case op == cdb.Read10:
		y.ReadsBegun++
		y.ReadBytesBegun += n
	case op == cdb.Write10:
		y.WritesBegun++
		y.WriteBytesBegun += n
	default:
		y.OthersBegun++
		if in != 0 {
			y.OtherIn.Begun++
			y.OtherIn.BytesBegun += n
		} else if out != 0 {
			y.OtherOut.Begun++
			y.OtherOut.BytesBegun += n
		}
	}
}

// ended counts its end; err is ErrAborted for one that was aborted.
func (y *tally) ended(op byte, out, in int, res initiator.Result, err error) {
	good := err == nil && res.Status == sam.Good
	if !good {
		y.Errors++
		name := sam.TaskAborted.String()
		if err == nil {
			name = res.Status.String()
			if d, e := sense.Parse(res.Sense); e == nil && res.Status == sam.CheckCondition {
				name = fmt.Sprintf("%x/%02x/%02x", uint8(d.Key), d.Code.ASC(), d.Code.ASCQ())
			}
		}
		y.errors[name]++
	}
	if err == nil {
		y.conn.Responses++
		y.conn.TxData += uint64(len(res.Data))
	}
	n := uint64(max(out, in))
	switch {
	case op == cdb.Read10 && good:
		y.Reads++
		y.ReadBytes += uint64(len(res.Data))
	case op == cdb.Read10:
		y.ReadsFailed++
		y.ReadBytesFailed += n
	case op == cdb.Write10 && good:
		y.Writes++
		y.WriteBytes += n
	case op == cdb.Write10:
		y.WritesFailed++
		y.WriteBytesFailed += n
	default:
		y.Others++
		if in != 0 {
			y.OtherIn.Ended++
			y.OtherIn.Bytes += n
		} else if out != 0 {
			y.OtherOut.Ended++
			y.OtherOut.Bytes += n
		}
	}
}

// do sends a command and counts it.
func (y *tally) do(t *testing.T, ctx context.Context, s *initiator.Session, lun sam.LUN, cdb, out []byte, in int) {
	t.Helper()
	y.began(cdb[0], len(out), in)
	res, err := s.Command(ctx, lun, cdb, out, in)
	if err != nil {
		t.Fatal(err)
	}
	y.ended(cdb[0], len(out), in, res, nil)
}

// check compares what was counted with what the target says of one session and LUN.
func (y *tally) check(t *testing.T, what string, got LUNStats) {
	t.Helper()
	if got != y.LUNStats {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, y.LUNStats)
	}
}

func one[T any](t *testing.T, list []T) T {
	t.Helper()
	if len(list) != 1 {
		t.Fatalf("%d of them, want 1", len(list))
	}
	return list[0]
}

// What the target counts of a session is what its initiator counts, command by command: kinds and sizes of every way of transfer, errors of
// every layer, aborts. The LUN keeps it when the session has ended.
func TestCountsAreTheInitiators(t *testing.T) {
	for _, rules := range []string{"", "any pending"} {
		t.Run("store "+rules, func(t *testing.T) {
			r := newRig(t, Config{}, "write hang off=7M len=512 count=1;"+rules)
			ctx := r.ctx()
			s, err := initiator.Login(ctx, r.options(1))
			if err != nil {
				t.Fatal(err)
			}
			y, zero := newTally(1), newTally(0)
			y.do(t, ctx, s, lun1, initiator.TestUnitReady(), nil, 0) // a unit attention
			y.do(t, ctx, s, lun1, initiator.TestUnitReady(), nil, 0)
			y.do(t, ctx, s, lun1, initiator.Inquiry(96), nil, 96)
			zero.do(t, ctx, s, 0, initiator.Inquiry(255), nil, 255)
			for _, blocks := range []int{1, 8, 128, 129, 512, 2048} {
				y.do(t, ctx, s, lun1, write10(8, uint16(blocks)), pattern(blocks, blocks), 0)
				y.do(t, ctx, s, lun1, read10(8, uint16(blocks)), nil, blocks*512)
			}
			y.do(t, ctx, s, lun1, read10(1<<30, 1), nil, 512)           // out of range
			y.do(t, ctx, s, lun1, write10(1<<30, 1), block('x', 1), 0)  // likewise
			y.do(t, ctx, s, lun1, []byte{0xff, 15: 0}, nil, 0)          // no such operation
			y.do(t, ctx, s, lun1, []byte{cdb.Prefetch10, 9: 0}, nil, 0) // CONDITION MET
			y.do(t, ctx, s, lun1, []byte{cdb.ModeSelect10, 8: 9, 9: 0}, make([]byte, 9), 0)
			if res, err := s.Command(ctx, sam.NewLUN(9), initiator.TestUnitReady(), nil, 0); err != nil || res.Status == sam.Good {
				t.Fatal("a LUN that is not there:", res.Status, err)
			}

			y.began(cdb.Write10, 512, 0)
			task, err := s.Start(lun1, write10(7<<20/512, 1), block('h', 1), 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.store.Wait(ctx, 1); err != nil {
				t.Fatal(err)
			}
			info := one(t, r.tg.Sessions())
			if d := r.tg.Disks()[1]; d.Queued != 1 || info.Queued != 1 || info.LUNs[1].Queued() != 1 {
				t.Errorf("one write is out, and the LUN says %d, the session %d", d.Queued, info.Queued)
			}
			y.check(t, "with a write out", info.LUNs[1])
			if _, err := s.TaskManagement(ctx, sam.AbortTask, lun1, task); err != nil {
				t.Fatal(err)
			}
			y.ended(cdb.Write10, 512, 0, initiator.Result{}, initiator.ErrAborted)
			r.store.Release()
			y.do(t, ctx, s, lun1, read10(0, 1), nil, 512)

			info = one(t, r.tg.Sessions())
			y.check(t, "the session at LUN 1", info.LUNs[1])
			zero.check(t, "the session at LUN 0", info.LUNs[0])
			c := info.Conns[0].Counters
			want := y.conn
			want.Commands += zero.conn.Commands + 1
			want.Responses += zero.conn.Responses + 1
			want.TxData += zero.conn.TxData
			want.RxData = y.WriteBytes + y.WriteBytesFailed + y.OtherOut.Bytes
			want.DataIn, want.DataOut, want.RxBytes, want.TxBytes = c.DataIn, c.DataOut, c.RxBytes, c.TxBytes
			if c != want || c.DataIn < y.Reads || c.DataOut == 0 || c.RxBytes < c.RxData+48*(c.Commands+c.DataOut) || c.TxBytes < c.TxData+48*c.Responses {
				t.Errorf("the connection:\n got %+v\nwant %+v", c, want)
			}
			if err := s.Logout(ctx); err != nil {
				t.Fatal(err)
			}
			if err := r.tg.empty(ctx); err != nil {
				t.Fatal(err)
			}
			all := r.tg.Info()
			y.check(t, "LUN 1 without sessions", all.LUNs[1].Stats)
			zero.check(t, "LUN 0 without sessions", all.LUNs[0].Stats)
			d := all.LUNs[1]
			if !maps.Equal(d.Errors, y.errors) {
				t.Errorf("errors:\n got %v\nwant %v", d.Errors, y.errors)
			}
			if n := d.ReadLatency.Count(); n != y.ReadsBegun || d.ReadLatency.Sum <= 0 {
				t.Errorf("the times of %d reads, of %d; %v", n, y.ReadsBegun, d.ReadLatency.Sum)
			}
			if n := d.WriteLatency.Count(); n != y.WritesBegun || d.WriteLatency.Sum <= 0 {
				t.Errorf("the times of %d writes, of %d; %v", n, y.WritesBegun, d.WriteLatency.Sum)
			}
			if a := all.Absent; a.Others != 1 || a.Errors != 1 {
				t.Errorf("the LUN that is not there: %+v", a)
			}
			if all.Commands.Commands != want.Commands || all.Busy <= 0 || all.Up < all.Busy || len(all.Sessions) != 0 {
				t.Errorf("the target: %+v", all)
			}
		})
	}
}

// A command that the session refuses by itself is counted at its LUN, too.
func TestRefusedCommandsCount(t *testing.T) {
	r := newRig(t, Config{}, "")
	s := r.login(1)
	before := r.tg.Disks()[1]
	// A bidirectional command, which nothing here serves.
	c := r.rawLogin(2)
	if _, err := c.ReadCommand(lun1, initiator.TestUnitReady(), 0); err != nil {
		t.Fatal(err)
	}
	h := c.CommandHeader(lun1, read10(0, 1), true, true, 512)
	if err := c.Send(h, nil); err != nil {
		t.Fatal(err)
	}
	res, err := c.Finish(h.ITT())
	if err != nil || res.Status != sam.CheckCondition {
		t.Fatal(res.Status, err)
	}
	after := r.tg.Disks()[1]
	if n := after.Errors["5/24/00"] - before.Errors["5/24/00"]; n != 1 || after.Stats.Errors != before.Stats.Errors+2 || after.Queued != 0 {
		t.Fatalf("before %+v\nafter %+v", before, after)
	}
	_ = s
}

// Kinds of error beyond so many share one count, so that no initiator makes the map grow.
func TestErrorKindsAreBounded(t *testing.T) {
	var c lunCounters
	for i := range 3 * maxErrorKinds {
		c.error(errorKind{status: sam.CheckCondition, code: sense.Code(i)})
		c.error(errorKind{status: sam.CheckCondition, code: sense.Code(i)})
	}
	var i LUNInfo
	c.info(&i)
	if len(i.Errors) != maxErrorKinds+1 || i.Errors[otherErrors] != 4*maxErrorKinds || i.Errors["0/00/00"] != 2 {
		t.Fatal(i.Errors)
	}
}

// Every duration is in the bucket whose bound is the first that is not below it.
func TestHistogramBuckets(t *testing.T) {
	for i := range HistogramBuckets - 1 {
		for _, c := range []struct {
			d      int64
			bucket int
		}{{int64(HistogramBound(i)), i}, {int64(HistogramBound(i)) + 1, i + 1}, {int64(HistogramBound(i)) - 1, i}} {
			var h Histogram
			h.add(c.d, 3)
			if h.Counts[c.bucket] != 3 || h.Count() != 3 || int64(h.Sum) != 3*c.d {
				t.Errorf("%d ns: %v, want bucket %d", c.d, h.Counts, c.bucket)
			}
		}
	}
	var h Histogram
	h.add(0, 1)
	h.add(1<<62, 1)
	if h.Counts[0] != 1 || h.Counts[HistogramBuckets-1] != 1 {
		t.Error(h.Counts)
	}
}

// A target tells who is there, oldest first, and of every LUN, also those that a session has not used.
func TestSessionsAreTold(t *testing.T) {
	r := newRig(t, Config{}, "")
	if err := r.tg.AddDisk(300, newStore(t, ""), scsi.DiskConfig{Identity: "other"}); err != nil {
		t.Fatal(err)
	}
	var logins []*initiator.Session
	for n := range byte(3) {
		logins = append(logins, r.login(n+1))
	}
	list := r.tg.Sessions()
	for i, s := range list {
		var luns []uint16
		for _, l := range s.LUNs {
			luns = append(luns, l.LUN)
		}
		if s.TSIH != uint16(i+1) || s.ISID[5] != byte(i+1) || s.Initiator == "" || s.Group != DefaultPortalGroup || s.Since.IsZero() ||
			!reflect.DeepEqual(luns, []uint16{0, 1, 300}) || s.Params.MaxBurstLength == 0 {
			t.Errorf("session %d: %+v", i, s)
		}
		c := one(t, s.Conns)
		if c.Local != r.addr || !c.Remote.IsValid() || c.CID != 0 {
			t.Errorf("its connection: %+v", c)
		}
	}
	if len(list) != len(logins) {
		t.Fatalf("%d sessions", len(list))
	}
	d := r.tg.Disks()
	if len(d) != 3 || !d[0].Controller || d[1].Controller || d[1].Size != testSize || d[1].BlockSize != 512 || !d[1].Online || d[2].LUN != 300 {
		t.Errorf("%+v", d)
	}
	// Discovery takes no number, as with tgtd, and none is used again at once.
	if _, err := initiator.Discover(r.ctx(), initiator.Options{Portal: r.addr.String()}); err != nil {
		t.Fatal(err)
	}
	if err := logins[1].Logout(r.ctx()); err != nil {
		t.Fatal(err)
	}
	r.login(4)
	list = r.tg.Sessions()
	if n := list[len(list)-1].TSIH; n != 4 {
		t.Errorf("the fourth session is %d", n)
	}
}

// Handles go up, leave out those that are in use, and are used again only after all others have been.
func TestHandles(t *testing.T) {
	var h tsihs
	for want := range uint16(discoveryTSIH - 1) {
		if n, ok := h.take(); !ok || n != want+1 {
			t.Fatal(n, ok)
		}
	}
	if n, ok := h.take(); ok {
		t.Fatal("one too many:", n)
	}
	var few tsihs
	for range 3 {
		few.take()
	}
	few.give(2)
	if n, _ := few.take(); n != 4 {
		t.Fatal(n, "is used again at once")
	}
	h.give(7)
	h.give(5)
	for _, want := range []uint16{5, 7} {
		if n, ok := h.take(); !ok || n != want {
			t.Fatal(n, ok)
		}
	}
}

// An administrator closes a session, or its connection: its commands are aborted, the initiator may come back.
func TestClosing(t *testing.T) {
	r := newRig(t, Config{}, "write hang count=2")
	for _, close := range []func(tsih uint16) error{r.tg.CloseSession, func(tsih uint16) error { return r.tg.CloseConnection(tsih, 0) }} {
		s := r.login(1)
		if _, err := s.Start(lun1, write10(0, 8), block('a', 8), 0); err != nil {
			t.Fatal(err)
		}
		if err := r.store.Wait(r.ctx(), 1); err != nil {
			t.Fatal(err)
		}
		tsih := one(t, r.tg.Sessions()).TSIH
		if err := close(tsih + 1); !errors.Is(err, ErrNoSession) {
			t.Fatal(err)
		}
		if err := r.tg.CloseConnection(tsih, 1); !errors.Is(err, ErrNoConnection) {
			t.Fatal(err)
		}
		if err := close(tsih); err != nil {
			t.Fatal(err)
		}
		if len(r.tg.Sessions()) != 0 || r.s.Sessions() != 0 {
			t.Fatal("it is there yet")
		}
		if _, err := s.Ping(r.ctx(), nil); err == nil {
			t.Fatal("the session lives")
		}
		if err := close(tsih); !errors.Is(err, ErrNoSession) {
			t.Fatal(err)
		}
		r.store.Release()
	}
	if n := r.s.Stats().Ended["admin"]; n != 2 {
		t.Fatalf("%d sessions were closed by an administrator", n)
	}
	r.write(r.login(1), 0, block('b', 8))
	if d := r.tg.Disks()[1]; d.Errors["TASK ABORTED"] != 2 || d.Queued != 0 {
		t.Fatalf("%+v", d)
	}
}

// A write whose data came damaged counts as what its initiator is told, whether the session refuses it at once or its data was being
// collected.
func TestDamageIsCounted(t *testing.T) {
	r := newRig(t, Config{}, "")
	c := r.rawDigests(1, digestPair{data: true})
	immediate := frame(c, c.CommandHeader(lun1, write10(damageLBA, 1), false, true, 512), nil, pattern(7, 1))
	immediate.send(r, c, immediate.flipped(immediate.head+3))
	r.wantReject(c, &immediate.h)
	r.wantCRCError(c, immediate.h.ITT())
	h, p := writing(r, c, 1)
	out := dataOut(c, h.ITT(), p.TTT(), 0, 0, pattern(7, 1), true)
	out.send(r, c, out.flipped(out.head+3))
	r.wantReject(c, &out.h)
	r.wantCRCError(c, h.ITT())
	d := r.tg.Disks()[1]
	if s := d.Stats; d.Errors["b/47/05"] != 2 || s.Writes != 0 || s.WritesFailed != 1 || d.Queued != 0 {
		t.Fatalf("%v, %+v", d.Errors, s)
	}
}

// A session's rows are what its mask shows, by the target's own numbers; what it does counts at those LUNs.
func TestMaskedSessionsAreCounted(t *testing.T) {
	r := newRig(t, Config{}, "")
	if err := r.tg.AddDisk(5, newStore(t, ""), scsi.DiskConfig{Identity: "five"}); err != nil {
		t.Fatal(err)
	}
	if err := r.tg.Configure(TargetConfig{Masks: []Mask{{Initiator: "*", LUNs: []MaskLUN{{As: 1, LUN: 5}}}}}); err != nil {
		t.Fatal(err)
	}
	s := r.login(1)
	r.write(s, 0, block('m', 8))
	info := one(t, r.tg.Sessions())
	var luns []uint16
	for _, l := range info.LUNs {
		luns = append(luns, l.LUN)
	}
	if !slices.Equal(luns, []uint16{0, 5}) || info.LUNs[1].Writes != 1 || info.LUNs[1].WriteBytes != 4096 {
		t.Errorf("%+v", info.LUNs)
	}
	d := r.tg.Disks()
	if len(d) != 3 || d[1].Stats.Writes != 0 || d[2].LUN != 5 || d[2].Stats.Writes != 1 {
		t.Errorf("%+v", d)
	}
	// The same when the session sees it by another number.
	if err := r.tg.Configure(TargetConfig{}); err != nil {
		t.Fatal(err)
	}
	r.ready(s)
	r.write(s, 0, block('m', 8))
	if d := r.tg.Disks(); d[1].Stats.Writes != 1 || d[2].Stats.Writes != 1 || d[2].Stats.WriteBytes != 4096 {
		t.Errorf("%+v", d)
	}
}

// Of many sessions each is told once, in order, while they come and go; the loop is never held for all of them.
func TestManySessionsAreTold(t *testing.T) {
	r := newRig(t, Config{}, "")
	const n = 3*infoHold + 1
	for i := range n {
		o := r.options(byte(i))
		o.ISID[4] = byte(i >> 8)
		s, err := initiator.Login(r.ctx(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
	}
	list := r.tg.Info().Sessions
	if len(list) != n {
		t.Fatalf("%d sessions, want %d", len(list), n)
	}
	for i, s := range list {
		if s.TSIH != uint16(i+1) {
			t.Fatalf("session %d is %d", i, s.TSIH)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := n; i > infoHold; i-- {
			if err := r.tg.CloseSession(uint16(i)); err != nil {
				t.Error(err)
			}
		}
	}()
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		list := r.tg.Sessions()
		for i, s := range list {
			if s.TSIH != uint16(i+1) || len(s.Conns) != 1 {
				t.Fatalf("session %d is %d, with %d connections", i, s.TSIH, len(s.Conns))
			}
		}
		if len(list) < infoHold || ended && len(list) != infoHold {
			t.Fatalf("%d sessions", len(list))
		}
	}
}
