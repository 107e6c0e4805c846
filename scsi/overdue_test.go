package scsi

import (
	"bytes"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// at looks at the rig's LU at a time of the host's clock.
func (r *rig) at(d time.Duration) Lateness {
	r.lu.Overdue(int64(d))
	return r.lu.Late()
}

// TestOverdueWait: a command whose store is silent waits on, and is counted once, told of for as long as it lasts, and then is like any other.
func TestOverdueWait(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{Timeout: 10 * time.Second})
	r.st.hold = true
	w := r.started(r.write(r.nx, 100, 8, 'w'), atStore)
	behind := r.started(r.read(r.nx, 100, 1), waiting)
	for _, s := range []struct {
		at      time.Duration
		waiting int
		oldest  time.Duration
		total   uint64
	}{{5 * time.Second, 0, 0, 0}, {14 * time.Second, 0, 0, 0}, {15 * time.Second, 2, 10 * time.Second, 2}, {60 * time.Second, 2, 55 * time.Second, 2}} {
		if got, want := r.at(s.at), (Lateness{Waiting: s.waiting, Oldest: s.oldest, Total: s.total}); got != want {
			t.Fatalf("after %v: %+v, want %+v", s.at, got, want)
		}
	}
	if len(r.host.ended)+len(r.host.timedOut) != 0 || w.state != atStore || behind.state != waiting {
		t.Fatal("commands that are to wait were ended")
	}
	r.st.hold = false
	r.st.end(0)
	r.host.turn()
	r.want(w, "good")
	r.want(behind, "good")
	if got, want := r.at(61*time.Second), (Lateness{Total: 2}); got != want {
		t.Fatalf("after the end: %+v, want %+v", got, want)
	}
}

// TestOverdueError: a command that has had its time is ended NOT READY. What the store has of it is in doubt: what overlaps waits for it,
// has its own time, and is carried out behind it if it comes in that.
func TestOverdueError(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{OnTimeout: TimeoutError})
	r.st.hold = true
	b := r.attach("iqn.2024-01.example:b")
	old := r.started(r.write(r.nx, 100, 8, 'o'), atStore)
	flush := r.started(r.cmd([]byte{cdb.SynchronizeCache10, 9: 0}, nil), atStore)
	own := r.started(r.write(r.nx, 100, 8, 'n'), waiting)
	r.at(time.Second)
	r.at(time.Second + DefaultTimeout - lateUnit)
	if len(r.host.timedOut)+len(r.host.ended) != 0 {
		t.Fatal("commands were ended before their time")
	}
	got := r.at(time.Second + DefaultTimeout)
	if got != (Lateness{Waiting: 2, Oldest: DefaultTimeout, Total: 3, Ended: 3}) {
		t.Fatalf("%+v", got)
	}
	if len(r.host.timedOut) != 2 || len(r.host.ended) != 1 || r.host.ended[0] != own {
		t.Fatalf("%d at the store and %d others ended", len(r.host.timedOut), len(r.host.ended))
	}
	for _, c := range []*Command{old, flush, own} {
		r.want(c, "02/04/01")
	}
	if r.lu.InDoubt() != 2 || r.nx.Commands() != 0 {
		t.Fatalf("%d in doubt, %d of the nexus", r.lu.InDoubt(), r.nx.Commands())
	}
	r.host.ended = nil
	again := r.started(r.write(b, 100, 8, 'n'), waiting)
	r.at(2*time.Second + DefaultTimeout)
	r.at(2*time.Second + 2*DefaultTimeout - lateUnit)
	third := r.started(r.write(b, 104, 8, 't'), waiting)
	if got := r.at(2*time.Second + 2*DefaultTimeout); len(r.host.ended) != 1 || r.host.ended[0] != again || got.Ended != 4 {
		t.Fatalf("%d ended, %+v", len(r.host.ended), got)
	}
	r.want(again, "02/04/01")
	r.st.hold = false
	for len(r.st.held) != 0 {
		r.st.end(0)
	}
	ended := r.host.turn()
	if len(ended) != 3 || r.lu.InDoubt() != 0 || r.lu.Pendings() != 0 {
		t.Fatalf("%d ended, %d in doubt, %d pending", len(ended), r.lu.InDoubt(), r.lu.Pendings())
	}
	r.want(third, "good")
	if d := r.do(transfer(cdb.Read10, 100, 12, 0), nil).Data; d[0] != 'o' || d[4*512] != 't' {
		t.Fatalf("blocks 100 and 104 have %q and %q: a late write has undone a later one, or was not applied", d[0], d[4*512])
	}
	if got := r.at(3*time.Second + 3*DefaultTimeout); got.Waiting != 0 || got.Oldest != 0 {
		t.Fatalf("%+v", got)
	}
}

// TestOverdueShared: where others may write the volume past this LU, a write that the store has is not answered; a read is.
func TestOverdueShared(t *testing.T) {
	st := newTestStore(t, 1<<20)
	st.info.Shared = true
	r := newRig(t, st, DiskConfig{OnTimeout: TimeoutError, Identity: "x"})
	r.st.hold = true
	w := r.started(r.write(r.nx, 100, 8, 'w'), atStore)
	rd := r.started(r.read(r.nx, 200, 8), atStore)
	r.at(time.Second)
	r.at(time.Second + DefaultTimeout)
	if len(r.host.timedOut) != 1 || r.host.timedOut[0] != rd || w.state != atStore {
		t.Fatal("want the read alone to be answered")
	}
}

// TestOverdueNotYet: what the host cannot answer yet waits on; what is changed while the disk is used holds from then on.
func TestOverdueNotYet(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{OnTimeout: TimeoutError, Timeout: time.Hour})
	r.st.hold = true
	w := r.started(r.write(r.nx, 100, 8, 'w'), atStore)
	r.at(time.Second)
	if got := r.at(time.Minute); got.Total != 0 {
		t.Fatalf("%+v", got)
	}
	cfg := r.lu.cfg
	cfg.Timeout = 10 * time.Second
	ch, err := r.lu.Plan(&DiskUpdate{Config: cfg, Online: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.lu.Apply(ch); err != nil {
		t.Fatal(err)
	}
	r.host.deaf = true
	if got := r.at(time.Minute); got.Ended != 0 || got.Waiting != 1 || w.state != atStore {
		t.Fatalf("%+v", got)
	}
	r.host.deaf = false
	if got := r.at(time.Minute); got.Ended != 1 || w.state != inDoubt {
		t.Fatalf("%+v", got)
	}
}

// TestOverdueCancels: a store that can take requests back is asked to, and what waits for them goes on.
func TestOverdueCancels(t *testing.T) {
	st := newTestStore(t, 1<<20)
	st.info.Caps |= backstore.CapCancel
	host := &testHost{}
	lu, err := NewDisk(cancelStore{st}, host, DiskConfig{OnTimeout: TimeoutError})
	if err != nil {
		t.Fatal(err)
	}
	host.lu = lu
	r := &rig{TB: t, st: st, host: host, lu: lu}
	r.nx = r.attach("iqn.2024-01.example:a")
	st.hold = true
	w := r.started(r.write(r.nx, 100, 8, 'w'), atStore)
	r.at(time.Second)
	behind := r.started(r.write(r.nx, 100, 8, 'b'), waiting)
	r.at(2 * time.Second)
	r.at(time.Second + DefaultTimeout)
	if len(host.timedOut) != 1 {
		t.Fatalf("%d were answered", len(host.timedOut))
	}
	if got := host.turn(); len(got) != 1 || got[0] != w || behind.state != atStore || lu.InDoubt() != 0 {
		t.Fatalf("%d ended, the one behind is in state %d", len(got), behind.state)
	}
	r.want(w, "02/04/01")
}

// TestOverdueSteps: a command of many requests has its time for each: it is the store that is to answer, not the command that is to be short.
func TestOverdueSteps(t *testing.T) {
	r := newRig(t, newTestStore(t, 64<<20), DiskConfig{OnTimeout: TimeoutError, MaxWriteSame: 64 << 20})
	r.st.hold = true
	c := r.started(r.cmd(transfer(cdb.WriteSame16, 0, 8<<20/512, 0), bytes.Repeat([]byte{'x'}, 512)), atStore)
	for i := range 5 {
		at := time.Duration(i) * 20 * time.Second
		if got := r.at(time.Second + at); got.Total != 0 || len(r.st.held) == 0 {
			t.Fatalf("step %d: %+v, %d requests", i, got, len(r.st.held))
		}
		r.st.end(0)
		r.host.turn()
	}
	if c.state != atStore || r.lu.Late().Total != 0 {
		t.Fatalf("state %d, %+v", c.state, r.lu.Late())
	}
}

// TestOverdueDormant: commands behind an ORDERED one that the store has have their time too, and the task set is empty afterwards.
func TestOverdueDormant(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{OnTimeout: TimeoutError})
	r.st.hold = true
	first := r.cmd(transfer(cdb.Read10, 0, 1, 0), nil)
	first.Attr = sam.Ordered
	r.started(first, atStore)
	second := r.started(r.cmd(transfer(cdb.Read10, 8, 1, 0), nil), dormant)
	r.at(time.Second)
	r.at(time.Second + DefaultTimeout)
	r.want(first, "02/04/01")
	r.want(second, "02/04/01")
	if r.lu.set != (taskSet{}) || r.lu.Pendings() != 1 {
		t.Fatalf("%+v, %d pending", r.lu.set, r.lu.Pendings())
	}
}

// BenchmarkOverdue is what the look each second costs with a full queue.
func BenchmarkOverdue(b *testing.B) {
	r := newRig(b, newTestStore(b, 16<<20), DiskConfig{})
	r.st.hold = true
	for i := range 1024 {
		r.start(r.read(r.nx, uint64(i), 1))
	}
	b.ReportAllocs()
	for n := range b.N {
		r.lu.Overdue(int64(n))
	}
}
