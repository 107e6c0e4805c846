package scsi

import (
	"errors"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// TestOnline: without its medium a disk answers what needs none, and NOT READY to all else; with it each nexus hears of it.
func TestOnline(t *testing.T) {
	st := newTestStore(t, 1<<20)
	r := newRig(t, st, DiskConfig{})
	b := r.attach("iqn.2024-01.example:b")
	st.hold = true
	under := r.started(r.write(r.nx, 0, 8, 1), atStore)
	behind := r.started(r.write(b, 4, 8, 2), waiting)
	if err := r.lu.SetOnline(false, false); err != nil || r.lu.Online() {
		t.Fatal(err)
	}
	if err := r.lu.SetOnline(false, false); err != nil {
		t.Fatal(err)
	}
	r.want(r.do(make([]byte, 6), nil), "02/3A/00")
	for _, b := range [][]byte{transfer(cdb.Read10, 0, 1, 0), transfer(cdb.Read10, 1<<20, 1, 0), transfer(cdb.Write10, 0, 1, 0), transfer(cdb.SynchronizeCache10, 0, 0, 0),
		transfer(cdb.Verify10, 0, 1, 0), transfer(cdb.WriteSame10, 0, 1, 0), transfer(cdb.ReadCapacity10, 0, 0, 0), {cdb.PreventAllow, 4: 1, 5: 0}, {cdb.StartStopUnit, 4: 1, 5: 0},
		{cdb.ServiceActionIn16, cdb.ReadCapacity16, 13: 32, 15: 0}, {cdb.ServiceActionIn16, cdb.GetLBAStatus, 13: 32, 15: 0}} {
		r.want(r.do(b, make([]byte, 512)), "02/3A/00")
	}
	for _, b := range [][]byte{{cdb.Inquiry, 4: 96, 5: 0}, {cdb.ModeSense6, 2: 0x3f, 4: 255, 5: 0}, {cdb.PersistentIn, prReadKeys, 8: 255, 9: 0}, {cdb.Reserve6, 5: 0}, {cdb.Release6, 5: 0}} {
		r.want(r.do(b, nil), "good")
	}
	if d, err := sense.Parse(r.do([]byte{cdb.RequestSense, 4: 252, 5: 0}, nil).Data); err != nil || d.Key != sense.NotReady || d.Code != sense.MediumNotPresent {
		t.Errorf("REQUEST SENSE: %v %v (%v)", d.Key, d.Code, err)
	}
	// The cache cannot be turned off: what it holds could not be flushed.
	list := make([]byte, 4+20)
	list[4], list[5] = 0x08, 0x12
	r.want(r.do([]byte{cdb.ModeSelect6, selectPF, 0, 0, byte(len(list)), 0}, list), "02/3A/00")
	if r.lu.modes.writeThrough {
		t.Error("the cache was turned off")
	}
	st.end(0)
	r.host.turn()
	r.want(under, "good") // the store had it
	r.want(behind, "02/3A/00")
	st.hold = false
	if err := r.lu.SetOnline(true, false); err != nil || !r.lu.Online() {
		t.Fatal(err)
	}
	r.hears(r.nx, sense.MediumMayHaveChanged)
	r.hears(b, sense.MediumMayHaveChanged)
	if err := r.lu.SetOnline(true, false); err != nil {
		t.Fatal(err)
	}
	r.hears(r.nx)
	// A fault is for good, and says so.
	r.lu.SetOffline("a fault")
	if err := r.lu.SetOnline(false, false); err != nil {
		t.Fatal(err)
	}
	if err := r.lu.SetOnline(true, false); err != nil {
		t.Fatal(err)
	}
	r.nx.attentions = 0
	r.want(r.do(make([]byte, 6), nil), "02/04/03")
	r.want(r.do([]byte{cdb.PersistentIn, prReadKeys, 8: 255, 9: 0}, nil), "02/04/03")
}

// TestPrevent: a medium that a nexus keeps is taken away by force only; what ends that, ends it.
func TestPrevent(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{Removable: true})
	b := r.attach("iqn.2024-01.example:b")
	prevent := func(nx *NexusLU, bits byte) {
		t.Helper()
		c := r.cmd([]byte{cdb.PreventAllow, 4: bits, 5: 0}, nil)
		c.Nexus = nx
		r.start(c)
		r.want(c, "good")
	}
	held := func(want bool) {
		t.Helper()
		if got := r.lu.Describe().PreventRemoval; got != want {
			t.Fatalf("prevented: %v, want %v", got, want)
		}
		err := r.lu.SetOnline(false, false)
		if errors.Is(err, ErrRemovalPrevented) != want || (err != nil) != want {
			t.Fatalf("offline: %v", err)
		}
		if err := r.lu.SetOnline(true, false); err != nil {
			t.Fatal(err)
		}
		r.nx.attentions, b.attentions = 0, 0
	}
	held(false)
	prevent(r.nx, 1)
	prevent(r.nx, 1)
	prevent(b, 1)
	held(true)
	prevent(r.nx, 0)
	held(true)
	prevent(b, 0)
	prevent(b, 0)
	held(false)
	for name, end := range map[string]func(){
		"LOGICAL UNIT RESET": func() { r.lu.Reset(sense.DeviceReset); r.nx.attentions, b.attentions = 0, 0 },
		"I_T NEXUS RESET":    func() { r.lu.ResetNexus(b); b.attentions = 0 },
		"the session's end":  func() { r.lu.Detach(b); b = r.attach("iqn.2024-01.example:b") },
	} {
		prevent(b, 1)
		held(true)
		end()
		if r.lu.prevents != 0 {
			t.Fatalf("%s does not end it", name)
		}
		held(false)
	}
	prevent(b, 1)
	if err := r.lu.SetOnline(false, true); err != nil || r.lu.Online() {
		t.Fatal("by force:", err)
	}
}

// TestNoMedium: a disk that was made without a store, until it is given one.
func TestNoMedium(t *testing.T) {
	host := &testHost{}
	cfg := DiskConfig{Identity: "drive", ReadOnly: true}
	lu, err := NewDisk(nil, host, cfg)
	if err != nil {
		t.Fatal(err)
	}
	host.lu = lu
	r := &rig{TB: t, host: host, lu: lu}
	r.nx = r.attach("iqn.2024-01.example:a")
	if c := r.do([]byte{cdb.Inquiry, 4: 36, 5: 0}, nil); result(c) != "good" || c.Data[1] != 0x80 {
		t.Errorf("INQUIRY: %s, %x", result(c), c.Data)
	}
	for _, b := range [][]byte{make([]byte, 6), transfer(cdb.Read10, 0, 0, 0), transfer(cdb.Read16, 0, 1, 0), transfer(cdb.Write10, 0, 1, 0), transfer(cdb.ReadCapacity10, 0, 0, 0), transfer(cdb.SynchronizeCache16, 0, 0, 0)} {
		r.want(r.do(b, make([]byte, 512)), "02/3A/00")
	}
	if d := lu.Describe(); d.Online || d.Size != 0 || d.BlockSize != 512 || !d.Removable || d.Identity != "drive" {
		t.Errorf("%+v", d)
	}
	// A change of something else leaves it a drive.
	if err := r.update(DiskUpdate{Config: cfg}); err != nil || r.nx.attentions != 0 {
		t.Errorf("%v, or something has changed", err)
	}
	if err := lu.SetOnline(true, true); !errors.Is(err, ErrNoMedium) {
		t.Error("online:", err)
	}
	if err := lu.Resize(1 << 20); !errors.Is(err, ErrNoMedium) {
		t.Error("a size:", err)
	}
	m, err := lu.PlanMedium(newTestStore(t, 2<<20))
	if err != nil {
		t.Fatal(err)
	}
	lu.SetMedium(m)
	r.want(r.do(make([]byte, 6), nil), "06/3F/03") // it is a disk now
	r.nx.attentions = 0
	r.want(r.do(make([]byte, 6), nil), "02/3A/00")
	if err := lu.SetOnline(true, false); err != nil {
		t.Fatal(err)
	}
	r.hears(r.nx, sense.MediumMayHaveChanged)
	r.want(r.do(transfer(cdb.Read10, 4095, 1, 0), nil), "good")
	if _, err := lu.PlanMedium(nil); !errors.Is(err, ErrOnline) {
		t.Error("another medium while it is online:", err)
	}
}

// TestEject: whoever uses a removable disk can eject its medium, unless somebody prevents that, and load it again; of a fixed one there is nothing to
// eject.
func TestEject(t *testing.T) {
	const eject, load = startLOEJ, startLOEJ | startStart
	st := newTestStore(t, 1<<20)
	r := newRig(t, st, DiskConfig{Removable: true})
	b := r.attach("iqn.2024-01.example:b")
	run := func(nx *NexusLU, code, bits byte) *Command {
		c := r.cmd([]byte{code, 4: bits, 5: 0}, nil)
		c.Nexus = nx
		if r.start(c) != Done {
			t.Fatal("pending")
		}
		return c
	}
	r.want(run(b, cdb.PreventAllow, 1), "good")
	r.want(run(r.nx, cdb.StartStopUnit, eject), "05/53/02")
	r.want(run(b, cdb.StartStopUnit, eject), "05/53/02")
	r.want(run(r.nx, cdb.StartStopUnit, load), "good") // it is there
	r.hears(b)
	r.want(run(b, cdb.PreventAllow, 0), "good")
	st.ops = nil
	r.want(run(r.nx, cdb.StartStopUnit, eject), "good")
	if len(st.ops) != 1 || st.ops[0] != backstore.Flush {
		t.Errorf("what it did to the store: %v", st.ops)
	}
	for _, nx := range []*NexusLU{r.nx, b} {
		r.want(run(nx, cdb.TestUnitReady, 0), "02/3A/00")
		r.want(run(nx, cdb.StartStopUnit, startStart), "02/3A/00")
	}
	r.want(run(r.nx, cdb.StartStopUnit, eject), "good")
	if r.lu.Describe().Online {
		t.Error("online without its medium")
	}
	r.want(run(b, cdb.StartStopUnit, load), "good")
	r.hears(b)
	r.hears(r.nx, sense.MediumMayHaveChanged)
	// Who administers the disk has the last word.
	r.want(run(b, cdb.StartStopUnit, eject), "good")
	if err := r.lu.SetOnline(false, false); err != nil {
		t.Fatal(err)
	}
	r.want(run(b, cdb.StartStopUnit, load), "02/3A/00")
	if err := r.lu.SetOnline(true, false); err != nil {
		t.Fatal(err)
	}
	r.hears(b, sense.MediumMayHaveChanged)

	// Who may only read takes it away from nobody.
	r.hears(r.nx, sense.MediumMayHaveChanged)
	r.nx.ReadOnly = true
	r.want(run(r.nx, cdb.StartStopUnit, eject), "07/27/00")
	r.want(run(r.nx, cdb.StartStopUnit, load), "07/27/00")
	r.nx.ReadOnly = false

	r = newRig(t, st, DiskConfig{})
	r.want(run(r.nx, cdb.StartStopUnit, eject), "05/24/00")
	r.want(run(r.nx, cdb.StartStopUnit, load), "05/24/00")
}

// TestEjectWithDoubts: an eject has ended when it is answered, also while a write is in doubt, which a flush would wait for.
func TestEjectWithDoubts(t *testing.T) {
	st := newTestStore(t, 1<<20)
	r := newRig(t, st, DiskConfig{Removable: true})
	st.hold = true
	late := r.started(r.write(r.nx, 0, 8, 1), atStore)
	if r.lu.Abort(late) {
		t.Fatal("a write that the store has has ended")
	}
	pending := len(r.lu.pending)
	c := r.do([]byte{cdb.StartStopUnit, 4: startLOEJ, 5: 0}, nil)
	r.want(c, "good")
	if len(r.lu.pending) != pending || c.state != idle {
		t.Fatalf("answered, and in state %d: %d commands pending, %d before", c.state, len(r.lu.pending), pending)
	}
	if n := len(st.held); n != 2 || st.held[1].Op != backstore.Flush {
		t.Errorf("%d requests at the store, want the write and a flush", n)
	}
	st.end(1)
	st.end(0)
	r.host.turn()
	if r.lu.InFlight() != 0 || len(r.lu.pending) != 0 {
		t.Errorf("%d requests, %d commands left", r.lu.InFlight(), len(r.lu.pending))
	}
}

// TestAway: a disk whose volume is expected is NOT READY, BECOMING READY, which initiators wait for, and looks otherwise as it will. When the volume is there
// each nexus hears of it, and of its size.
func TestAway(t *testing.T) {
	host := &testHost{}
	lu, err := NewDisk(nil, host, DiskConfig{Identity: "x", Away: true})
	if err != nil {
		t.Fatal(err)
	}
	host.lu = lu
	r := &rig{TB: t, host: host, lu: lu}
	r.nx = r.attach("iqn.2024-01.example:a")
	for name, b := range map[string][]byte{"TEST UNIT READY": make([]byte, 6), "READ(10)": transfer(cdb.Read10, 0, 1, 0), "READ CAPACITY(10)": {cdb.ReadCapacity10, 9: 0}} {
		if got := result(r.do(b, nil)); got != "02/04/01" {
			t.Errorf("%s: %s", name, got)
		}
	}
	inquiry := r.do([]byte{cdb.Inquiry, 0, 0, 0, 96, 0}, nil)
	if inquiry.Data[0] != 0 || inquiry.Data[1]&0x80 != 0 {
		t.Errorf("INQUIRY: %x: it is not there, or removable", inquiry.Data[:2])
	}
	m, err := lu.PlanMedium(newTestStore(t, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	lu.SetMedium(m)
	if err := lu.SetOnline(true, false); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 4 {
		seen[result(r.do(make([]byte, 6), nil))] = true
	}
	if !seen["06/28/00"] || !seen["06/2A/09"] || !seen["good"] {
		t.Errorf("it came back with %v", seen)
	}
	// An administrator takes the medium away: that is no volume to wait for.
	if err := lu.SetOnline(false, false); err != nil {
		t.Fatal(err)
	}
	r.want(r.do(make([]byte, 6), nil), "02/3A/00")
}

// TestFenced: a store whose opener was shut out makes the disk unavailable, also for commands that would not have come to it, until it gets
// another store.
func TestFenced(t *testing.T) {
	st := newTestStore(t, 1<<20)
	r := newRig(t, st, DiskConfig{})
	st.fail = func(*backstore.Request) error { return &backstore.Error{Class: backstore.ClassFenced, Op: "write"} }
	r.want(r.do(transfer(cdb.Write10, 0, 1, 0), make([]byte, 512)), "02/04/0C")
	st.fail = nil
	r.want(r.do(make([]byte, 6), nil), "02/04/0C")
	if d := r.lu.Describe(); !d.Fenced || !d.Failed || d.Online {
		t.Fatalf("%+v", d)
	}
	if err := r.lu.SetOnline(false, false); err != nil {
		t.Fatal(err)
	}
	m, err := r.lu.PlanMedium(newTestStore(t, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	r.lu.SetMedium(m)
	if err := r.lu.SetOnline(true, false); err != nil {
		t.Fatal(err)
	}
	r.want(r.do(make([]byte, 6), nil), "06/28/00")
	r.want(r.do(make([]byte, 6), nil), "good")
}
