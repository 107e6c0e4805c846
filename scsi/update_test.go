package scsi

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// update plans and applies a change.
func (r *rig) update(u DiskUpdate) error {
	ch, err := r.lu.Plan(&u)
	if err != nil {
		return err
	}
	return r.lu.Apply(ch)
}

// TestUpdate: each thing that can be changed of a disk, what initiators are then told, and which unit attentions tell of it; registrations
// and reservations stay, and what would not do changes nothing.
func TestUpdate(t *testing.T) {
	yes, no := true, false
	inquiry, capacity, mode := sense.InquiryDataChanged, sense.CapacityChanged, sense.ModeParametersChanged
	page := func(code byte) []byte { return []byte{cdb.Inquiry, 1, code, 0, 255, 0} }
	for name, k := range map[string]struct {
		change func(c *DiskConfig)
		told   []sense.Code
		b      []byte // a command …
		at     int    // … and what its data has from byte at
		want   string
	}{
		"nothing":       {func(*DiskConfig) {}, nil, nil, 0, ""},
		"vendor":        {func(c *DiskConfig) { c.Vendor = "ACME" }, []sense.Code{inquiry}, []byte{cdb.Inquiry, 4: 96, 5: 0}, 8, asciiHex("ACME    VIRTUAL-DISK    0001")},
		"product":       {func(c *DiskConfig) { c.Product, c.Revision = "P", "2" }, []sense.Code{inquiry}, []byte{cdb.Inquiry, 4: 96, 5: 0}, 16, asciiHex("P               2   ")},
		"serial":        {func(c *DiskConfig) { c.Serial = "SN2" }, []sense.Code{inquiry}, page(0x80), 3, "03" + asciiHex("SN2")},
		"tgt's names":   {func(c *DiskConfig) { c.TgtNaming, c.TID = true, 5 }, []sense.Code{inquiry}, page(0x83), 4, "02010024" + asciiHex("IET     00050003")},
		"removable":     {func(c *DiskConfig) { c.Removable = true }, []sense.Code{inquiry}, []byte{cdb.Inquiry, 4: 96, 5: 0}, 0, "0080"},
		"read-only":     {func(c *DiskConfig) { c.ReadOnly = true }, []sense.Code{mode}, []byte{cdb.ModeSense6, 8, 0x0a, 0, 255, 0}, 2, "90"},
		"fully":         {func(c *DiskConfig) { c.Thin = &no }, []sense.Code{inquiry, capacity}, page(0xb2), 4, "00000000"},
		"thin":          {func(c *DiskConfig) { c.Thin = &yes }, nil, page(0xb2), 4, "00e40200"},
		"write-through": {func(c *DiskConfig) { c.WriteCache = &no }, []sense.Code{mode}, []byte{cdb.ModeSense6, 8, 0x08, 0, 255, 0}, 4, "081200"},
		"descriptors":   {func(c *DiskConfig) { c.DescriptorSense = true }, []sense.Code{mode}, []byte{cdb.ModeSense6, 8, 0x0a, 0, 255, 0}, 4, "0a0a04"},
		"rotation":      {func(c *DiskConfig) { c.RotationRate = 7200 }, []sense.Code{inquiry}, page(0xb1), 4, "1c20"},
		"no rotation":   {func(c *DiskConfig) { c.RotationRate = 1 }, nil, page(0xb1), 4, "0001"},
		"alignment":     {func(c *DiskConfig) { c.LowestAligned = 0x1234 }, []sense.Code{capacity}, []byte{cdb.ServiceActionIn16, cdb.ReadCapacity16, 13: 32, 15: 0}, 13, "03 d234"},
		"optima":        {func(c *DiskConfig) { c.OptimalGranularity, c.OptimalLength = 16, 256 }, []sense.Code{inquiry}, page(0xb0), 6, "0010 00008000 00000100"},
		"physical":      {func(c *DiskConfig) { c.PhysicalBlock = 8192 }, []sense.Code{inquiry, capacity}, []byte{cdb.ServiceActionIn16, cdb.ReadCapacity16, 13: 32, 15: 0}, 13, "04"},
		"caching page": {func(c *DiskConfig) {
			c.ModePages = []string{"8:0:0x12:0x10:0:0xff:0xff:0:0:0xff:0xff:0xff:0xff:0x80:0x14:0:0:0:0:0:0"}
		}, []sense.Code{mode}, []byte{cdb.ModeSense6, 8, 0x08, 0, 255, 0}, 4, "081200"},
		"control page": {func(c *DiskConfig) { c.ModePages = []string{"10:0:10:6:0x10:8:0:0:0:0:0:2:0"} }, []sense.Code{mode}, []byte{cdb.ModeSense6, 8, 0x0a, 0, 255, 0}, 4, "0a0a04000800"},
		"other page": {func(c *DiskConfig) {
			c.ModePages = []string{"0x1c:0:10:8:0:0:0:0:0:0:0:0:0", "10:1:28" + strings.Repeat(":0", 28)}
		}, nil, []byte{cdb.ModeSense6, 8, 0x0a, 0, 255, 0}, 4, "0a0a0000"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, thinStore(t, 1<<20), DiskConfig{Serial: "SN1", TargetName: "iqn.2024-01.example:t", LUN: 3})
			b := r.attach("iqn.2024-01.example:b")
			r.lu.pr.regs = []registration{{nexus: r.nx.Nexus, key: 7}}
			r.lu.pr.kind, r.lu.pr.holder = prWriteExclusive, r.nx.Nexus
			r.lu.regrant()
			cfg := DiskConfig{Serial: "SN1"}
			k.change(&cfg)
			if err := r.update(DiskUpdate{Config: cfg, Online: true}); err != nil {
				t.Fatal(err)
			}
			for _, nx := range []*NexusLU{r.nx, b} {
				r.hears(nx, k.told...)
			}
			if k.b != nil {
				c := r.do(k.b, nil)
				if want := unhex(t, k.want); result(c) != "good" || len(c.Data) < k.at+len(want) || !bytes.Equal(c.Data[k.at:][:len(want)], want) {
					t.Errorf("%s: %s %x, want %x from byte %d", cdb.Describe(k.b), result(c), c.Data, want, k.at)
				}
			}
			w := r.write(b, 0, 1, 1)
			if r.start(w); w.Status != sam.ReservationConflict || len(r.lu.pr.regs) != 1 {
				t.Errorf("the reservation is gone: %s", result(w))
			}
			// The same once more is nothing new, and it can be taken back.
			if err := r.update(DiskUpdate{Config: cfg, Online: true}); err != nil {
				t.Fatal(err)
			}
			r.hears(r.nx)
			if err := r.update(DiskUpdate{Config: DiskConfig{Serial: "SN1"}, Online: true}); err != nil {
				t.Fatal(err)
			}
			r.hears(r.nx, k.told...)
		})
	}
}

// TestUpdateRefused: a change of which any part will not do changes nothing.
func TestUpdateRefused(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{Identity: "mine"})
	before := *r.lu
	for want, change := range map[string]func(u *DiskUpdate){
		"identity of a disk stays":      func(u *DiskUpdate) { u.Config.Identity = "yours" },
		"logical block of a disk stays": func(u *DiskUpdate) { u.Config.LogicalBlock = 4096 },
		"vendor":                        func(u *DiskUpdate) { u.Config.Vendor = "TOOLONGER" },
		"product":                       func(u *DiskUpdate) { u.Config.Product = "caf\xe9" },
		"serial number":                 func(u *DiskUpdate) { u.Config.Serial = strings.Repeat("1", 37) },
		"rotation rate of 7":            func(u *DiskUpdate) { u.Config.RotationRate = 7 },
		"rotation rate of 65535":        func(u *DiskUpdate) { u.Config.RotationRate = 65535 },
		"lowest aligned block":          func(u *DiskUpdate) { u.Config.LowestAligned = 16384 },
		"optimal granularity":           func(u *DiskUpdate) { u.Config.OptimalGranularity = 65536 },
		"optimal transfer length":       func(u *DiskUpdate) { u.Config.OptimalLength = -1 },
		"physical block of 5":           func(u *DiskUpdate) { u.Config.PhysicalBlock = 5 },
		`page "x"`:                      func(u *DiskUpdate) { u.Config.ModePages = []string{"x:0:0"} },
		`subpage "255"`:                 func(u *DiskUpdate) { u.Config.ModePages = []string{"8:255:0"} },
		"want PAGE:SUBPAGE:LENGTH":      func(u *DiskUpdate) { u.Config.ModePages = []string{"8:0"} },
		"1 bytes follow, its length":    func(u *DiskUpdate) { u.Config.ModePages = []string{"8:0:2:1"} },
		`byte 1 is "256"`:               func(u *DiskUpdate) { u.Config.ModePages = []string{"8:0:2:1:256"} },
	} {
		u := DiskUpdate{Config: DiskConfig{Vendor: "NEW", RotationRate: 7200}, Online: false}
		change(&u)
		if err := r.update(u); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if r.lu.id != before.id || r.lu.rotation != before.rotation || !r.lu.Online() || r.told(r.nx) != 0 {
			t.Fatalf("%s: something changed", want)
		}
	}
	prevent := r.do([]byte{cdb.PreventAllow, 4: 1, 5: 0}, nil)
	r.want(prevent, "good")
	if err := r.update(DiskUpdate{Config: DiskConfig{Vendor: "NEW"}}); !errors.Is(err, ErrRemovalPrevented) || r.lu.id != before.id {
		t.Errorf("%v, and the vendor is %q", err, r.lu.id.Vendor)
	}
	if err := r.update(DiskUpdate{Config: DiskConfig{Vendor: "NEW"}, Force: true}); err != nil || r.lu.id.Vendor != "NEW" || r.lu.Online() {
		t.Errorf("by force: %v", err)
	}
}

// TestUpdateKeepsModes: what MODE SELECT has set stays, unless the change is about that.
func TestUpdateKeepsModes(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	list := make([]byte, 4+20+12)
	copy(list[4:], []byte{0x08, 0x12, 0})
	copy(list[24:], []byte{0x0a, 0x0a, 0x04, 0, 0x08, 0, 0, 0, 2, 0x58})
	r.want(r.do([]byte{cdb.ModeSelect6, selectPF, 0, 0, byte(len(list)), 0}, list), "good")
	set := modes{writeThrough: true, protect: true, descriptorSense: true, silentAbort: true}
	if r.lu.modes != set {
		t.Fatalf("%+v", r.lu.modes)
	}
	yes := true
	for i, k := range []struct {
		cfg  DiskConfig
		want modes
	}{
		{DiskConfig{Vendor: "X"}, set},
		{DiskConfig{Vendor: "X", WriteCache: &yes}, modes{protect: true, descriptorSense: true, silentAbort: true}},
		{DiskConfig{WriteCache: &yes, DescriptorSense: true}, modes{protect: true, descriptorSense: true, silentAbort: true}},
		{DiskConfig{WriteCache: &yes}, modes{protect: true, silentAbort: true}},
		{DiskConfig{WriteCache: &yes, ModePages: []string{"10:0:10:0:0:8:0x40:0:0:0:0:0:0"}}, modes{protect: true, silentAbort: true}},
		{DiskConfig{WriteCache: &yes}, modes{silentAbort: true}},
	} {
		if err := r.update(DiskUpdate{Config: k.cfg, Online: true}); err != nil || r.lu.modes != k.want {
			t.Errorf("%d: %v, %+v, want %+v", i, err, r.lu.modes, k.want)
		}
	}
	// A reset brings back what the disk started with.
	if err := r.update(DiskUpdate{Config: DiskConfig{DescriptorSense: true}, Online: true}); err != nil {
		t.Fatal(err)
	}
	r.lu.modes.protect = true
	if r.lu.Reset(sense.DeviceReset); !r.lu.modes.descriptorSense || r.lu.modes.protect || r.lu.modes.silentAbort {
		t.Errorf("after a reset: %+v", r.lu.modes)
	}
}

// TestInitialModes: what a disk is configured with is there at start, and what MODE SENSE calls the default.
func TestInitialModes(t *testing.T) {
	no := false
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{WriteCache: &no, DescriptorSense: true, ModePages: []string{"10:0:10:4:0x10:8:0:0:0:0:0:2:0"}})
	for _, control := range []byte{0x00, 0x80} {
		c := r.do([]byte{cdb.ModeSense6, 8, 0x3f | control, 0, 255, 0}, nil)
		if c.Data[4+2]&4 != 0 || c.Data[24+2] != 4 || c.Data[24+4] != 8 || c.Data[24+5] != 0 {
			t.Errorf("page control %02x: %x", control, c.Data)
		}
	}
	w := r.do(transfer(cdb.Write10, 0, 1, 0), fill(1, 512, 1))
	if result(w) != "07/27/02" || w.Sense[0] != 0x72 {
		t.Errorf("%s, %x", result(w), w.Sense)
	}
}

// TestWriteThroughForATime: while the cache is about to be turned off every write is durable when it ends, and what MODE SELECT says
// meanwhile holds afterwards.
func TestWriteThroughForATime(t *testing.T) {
	st := newTestStore(t, 1<<20)
	st.info.Caps &^= backstore.CapFUA
	r := newRig(t, st, DiskConfig{})
	list := make([]byte, 4+20)
	list[4], list[5] = 0x08, 0x12 // WCE is 0
	wrote := func(want int) {
		t.Helper()
		st.ops = nil
		r.want(r.do(transfer(cdb.Write10, 0, 1, 0), fill(1, 512, 1)), "good")
		if n := len(st.ops) - 1; n != want {
			t.Errorf("%v: %d flushes, want %d", st.ops, n, want)
		}
	}
	wrote(0)
	r.lu.WriteThrough(true)
	wrote(1)
	st.ops = nil
	r.want(r.do([]byte{cdb.ModeSelect6, selectPF, 0, 0, byte(len(list)), 0}, list), "good")
	if len(st.ops) != 1 || st.ops[0] != backstore.Flush {
		t.Errorf("the cache was turned off without a flush: %v", st.ops)
	}
	r.lu.WriteThrough(false)
	wrote(1)
	if r.lu.Describe().WriteCache {
		t.Error("the cache that an initiator has turned off is on")
	}
}

// TestFlush: what had been written is durable when it ends, writes that are under way included; a failure is told.
func TestFlush(t *testing.T) {
	st := newTestStore(t, 1<<20)
	r := newRig(t, st, DiskConfig{})
	st.hold = true
	r.started(r.write(r.nx, 0, 8, 1), atStore)
	c := &Command{}
	if r.lu.Flush(c) != Pending || c.state != waiting {
		t.Fatalf("state %d beside a write", c.state)
	}
	st.end(0)
	r.host.turn()
	if len(st.held) != 1 || st.held[0].Op != backstore.Flush {
		t.Fatalf("%d requests", len(st.held))
	}
	st.end(0)
	if got := r.host.turn(); len(got) != 1 || got[0] != c {
		t.Fatal("it has not ended")
	}
	r.want(c, "good")
	st.hold = false
	st.fail = func(*backstore.Request) error { return &backstore.Error{Class: backstore.ClassMedium, Op: "flush"} }
	if r.lu.Flush(c) != Done {
		t.Fatal("pending")
	}
	r.want(c, "03/0C/00")
	if !r.lu.Describe().Failed {
		t.Error("the store has failed, and nobody says so")
	}
	st.info.Caps &^= backstore.CapFlush
	r = newRig(t, st, DiskConfig{})
	if r.lu.Flush(c) != Done {
		t.Fatal("pending")
	}
	r.want(c, "good")
}

// TestMedium: a disk that is offline is given another store. What was meant for the one before never gets there, what is told of the
// disk is the new one's, and what the disk is itself stays.
func TestMedium(t *testing.T) {
	st := newTestStore(t, 1<<20)
	r := newRig(t, st, DiskConfig{Identity: "disk"})
	b := r.attach("iqn.2024-01.example:b")
	r.lu.pr.regs = []registration{{nexus: r.nx.Nexus, key: 7}}
	r.lu.regrant()
	next := thinStore(t, 4<<20)
	next.info.Rotational, next.info.ReadOnly = true, false
	if _, err := r.lu.PlanMedium(next); !errors.Is(err, ErrOnline) {
		t.Fatal(err)
	}
	late := r.write(r.nx, 100, 8, 9) // its data is to come
	r.lu.Prepare(late)
	r.lu.Await(late)
	lateRead := r.read(b, 100, 8)
	r.lu.Prepare(lateRead)
	r.lu.Await(lateRead)
	if err := r.lu.SetOnline(false, false); err != nil {
		t.Fatal(err)
	}
	if _, err := r.lu.PlanMedium(newTestStore(t, 1000)); err == nil {
		t.Error("a store that will not do")
	}
	shared := newTestStore(t, 1<<20)
	shared.info.Shared = true
	if _, err := r.lu.PlanMedium(shared); err == nil || !strings.Contains(err.Error(), "reservations") {
		t.Error("reservations on a shared volume:", err)
	}
	m, err := r.lu.PlanMedium(next)
	if err != nil {
		t.Fatal(err)
	}
	naa := r.lu.naa
	r.lu.SetMedium(m)
	if err := r.lu.SetOnline(true, false); err != nil {
		t.Fatal(err)
	}
	for _, nx := range []*NexusLU{r.nx, b} {
		r.hears(nx, sense.MediumMayHaveChanged, sense.InquiryDataChanged, sense.CapacityChanged)
	}
	late.Buf = late.Owner.([]byte)[:late.Out]
	lateRead.Buf = make([]byte, lateRead.In)
	for _, c := range []*Command{late, lateRead} {
		if r.lu.Execute(c) != Done {
			t.Fatal("pending")
		}
		r.want(c, "02/3A/00")
	}
	if len(next.ops) != 0 || len(st.ops) != 0 {
		t.Errorf("a command for the store before was carried out: %v, %v", next.ops, st.ops)
	}
	if r.lu.naa != naa || len(r.lu.pr.regs) != 1 || r.lu.Describe().Identity != "disk" {
		t.Error("the disk is another than it was")
	}
	r.want(r.do(transfer(cdb.Write10, 8191, 1, 0), fill(1, 512, 1)), "good")
	r.want(r.do(unmapCDB(24), unmapList(0, 8)), "good")
	if len(next.ops) != 2 || len(st.ops) != 0 {
		t.Errorf("%v, %v", next.ops, st.ops)
	}
}
