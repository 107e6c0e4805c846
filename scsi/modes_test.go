package scsi

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

func select6(n int) []byte { return []byte{cdb.ModeSelect6, selectPF, 0, 0, byte(n), 0} }

// TestModeSelectLists: what a parameter list may say, and that one in error changes nothing.
func TestModeSelectLists(t *testing.T) {
	const page = "0a0a 04 00 08 00 0000 0258 0000"
	caching := func(wce string) string { return "0812" + wce + "0000000000000000000000000000000000" }
	for _, k := range []struct {
		name string
		list string
		ten  bool
		want string
		set  bool
	}{
		{"nothing", "", false, "good", false},
		{"a header", "00000000", false, "good", false},
		{"half a header", "0000", false, "05/1A/00", false},
		{"control", "00000000" + page, false, "good", true},
		{"control (10)", "0000000000000000" + page, true, "good", true},
		{"PS", "00000000 8a0a 04 00 08 00 0000 0258 0000", false, "good", true},
		{"block descriptor", "00000008 00000800 00000200" + page, false, "good", true},
		{"the same medium", "00000008 00000000 00000200" + page, false, "good", true},
		{"another capacity", "00000008 00000801 00000200" + page, false, "05/26/00", false},
		{"another block length", "00000008 00000000 00001000" + page, false, "05/26/00", false},
		{"long descriptor", "0000000001000010 0000000000000800 00000000 00000200" + page, true, "good", true},
		{"two pages", "00000000" + caching("04") + page, false, "good", true},
		{"the second is bad", "00000000" + page + "0812 05" + caching("00")[6:], false, "05/26/00", false},
		{"no such page", "00000000 1c0a 00000000000000000000", false, "05/26/00", false},
		{"subpage format", "00000000 4a01 0000", false, "05/26/00", false},
		{"page length", "00000000 0a09 0400080000000258 00", false, "05/26/00", false},
		{"cut page", "00000000 0a0a 04 00 08", false, "05/1A/00", false},
		{"cut descriptor", "00000008 00000800", false, "05/1A/00", false},
		{"not changeable", "00000000 0a0a 04 10 08 00 0000 0258 0000", false, "05/26/00", false},
	} {
		r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
		list := unhex(t, k.list)
		b := select6(len(list))
		if k.ten {
			b = []byte{cdb.ModeSelect10, selectPF, 0, 0, 0, 0, 0, 0, byte(len(list)), 0}
		}
		other := r.attach("iqn.2024-01.example:b")
		got := result(r.do(b, list))
		if set := r.lu.modes.protect && r.lu.modes.descriptorSense; got != k.want || set != k.set {
			t.Errorf("%s: %s, set %v, want %s", k.name, got, set, k.want)
		}
		if (other.attentions != 0) != k.set || r.nx.attentions != 0 {
			t.Errorf("%s: unit attentions %x and %x", k.name, other.attentions, r.nx.attentions)
		}
	}
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	for _, b := range [][]byte{{cdb.ModeSelect6, selectPF | selectSP, 0, 0, 4, 0}, {cdb.ModeSelect6, 0, 0, 0, 4, 0}, {cdb.ModeSelect6, selectPF | selectRTD, 0, 0, 4, 0},
		{cdb.ModeSelect10, selectPF, 0, 0, 0, 0, 0, 0xff, 0xff, 0}} {
		r.want(r.do(b, make([]byte, 1<<16)), "05/24/00")
	}
	r.want(r.do(select6(16), make([]byte, 15)), "05/0E/03")
}

// TestModeEffects: SWP, D_SENSE and WCE do what they say, MODE SENSE tells, and a reset brings the first two back.
func TestModeEffects(t *testing.T) {
	st := newTestStore(t, 1<<20)
	r := newRig(t, st, DiskConfig{})
	other := r.attach("iqn.2024-01.example:b")
	tell := func(list string) {
		t.Helper()
		b := unhex(t, list)
		c := r.cmd(select6(len(b)), b)
		c.NoWait = true
		if r.start(c) != WouldBlock {
			t.Fatal("the list lies in memory that will not stay")
		}
		r.want(r.do(select6(len(b)), b), "good")
	}
	sense := func(page byte) []byte { return r.do([]byte{cdb.ModeSense6, 8, page, 0, 255, 0}, nil).Data }

	tell("00000000 0a0a 04 00 08 00 0000 0258 0000")
	c := r.do(transfer(cdb.Write10, 0, 1, 0), make([]byte, 512))
	if r.want(c, "07/27/02"); c.Sense[0] != 0x72 {
		t.Fatalf("D_SENSE: %x", c.Sense)
	}
	for _, b := range [][]byte{transfer(cdb.WriteSame16, 0, 1, 0), unmapCDB(0), transfer(cdb.OrWrite16, 0, 1, 0), transfer(cdb.CompareAndWrite, 0, 1, 0), transfer(cdb.WriteVerify10, 0, 1, 0)} {
		if b[0] != cdb.Unmap {
			r.want(r.do(b, make([]byte, 512)), "07/27/02")
		}
	}
	r.want(r.do(transfer(cdb.Read10, 0, 1, 0), nil), "good")
	if b := sense(0x0a); b[2]&0x80 == 0 || b[6] != 4 || b[8] != 8 {
		t.Fatalf("%x", b)
	}
	c = r.cmd(make([]byte, 6), nil)
	c.Nexus = other
	r.start(c)
	r.want(c, "06/2A/01")
	r.lu.Reset(0x2903)
	r.nx.attentions = 0
	if b := sense(0x0a); b[2]&0x80 != 0 || b[6] != 0 || b[8] != 0 {
		t.Fatalf("after a reset: %x", b)
	}

	// The cache off: what is under way is waited for and flushed, and what comes is durable when it ends.
	st.hold = true
	before := r.started(r.write(r.nx, 5, 1, 1), atStore)
	b := unhex(t, "00000000 0812 00 0000000000000000000000000000000000")
	off := r.started(r.cmd(select6(len(b)), b), waiting)
	st.end(0)
	if got := r.host.turn(); len(got) != 1 || got[0] != before || len(st.held) != 1 || st.held[0].Op != backstore.Flush {
		t.Fatal("no flush behind the write")
	}
	st.end(0)
	r.host.turn()
	r.want(off, "good")
	st.hold = false
	flags := backstore.FUA
	st.fail = func(r *backstore.Request) error {
		if changes(r.Op) {
			flags &= r.Flags
		}
		return nil
	}
	for _, b := range [][]byte{transfer(cdb.Write10, 0, 1, 0), transfer(cdb.WriteSame10, 0, 1, 0), transfer(cdb.OrWrite16, 0, 1, 0)} {
		r.want(r.do(b, make([]byte, 512)), "good")
	}
	r.want(r.do(transfer(cdb.CompareAndWrite, 0, 1, 0), make([]byte, 1024)), "good")
	if flags != backstore.FUA {
		t.Fatal("a write that is not durable with the cache off")
	}
	r.lu.Reset(0x2903)
	r.nx.attentions = 0
	if sense(0x08)[6] != 0 {
		t.Fatal("a reset turned the cache on, of which whoever turned it off knows nothing")
	}
	// Without the store's flag a flush follows.
	st.info.Caps = backstore.CapFlush
	st.fail = nil
	r = newRig(t, st, DiskConfig{})
	r.want(r.do(select6(len(b)), b), "good")
	st.ops = nil
	r.want(r.do(transfer(cdb.Write10, 0, 1, 0), make([]byte, 512)), "good")
	r.want(r.do(transfer(cdb.WriteSame10, 0, 1, 0), make([]byte, 512)), "good")
	if !slices.Equal(st.ops, []backstore.Op{backstore.Write, backstore.Flush, backstore.Write, backstore.Flush}) {
		t.Fatal(st.ops)
	}
}

// TestUsage: every row of the table has CDB usage data of its length, with the operation code, the service action and
// NACA in it.
func TestUsage(t *testing.T) {
	r := newRig(t, thinStore(t, 1<<20), DiskConfig{})
	check := func(code, action byte, row *op) {
		b := r.lu.usageData(code, usageOf(code, action))
		if len(b) != int(row.length) || b[0] != code || b[1]&0x1f&action != action || b[len(b)-1] != cdb.NACA {
			t.Errorf("%s: %x", row.name, b)
		}
	}
	for i := range 256 {
		if row := diskOps.code[i]; row != nil {
			check(byte(i), 0, row)
		}
		for action, row := range diskOps.actions[i] {
			check(byte(i), action, row)
		}
	}
	for i := 1; i < len(usages); i++ {
		if a, b := usages[i-1], usages[i]; a.code > b.code || a.code == b.code && a.action >= b.action {
			t.Errorf("%02Xh/%02Xh is out of order", b.code, b.action)
		}
	}
}

func TestReportOpcodes(t *testing.T) {
	plain := newTestStore(t, 1<<20)
	plain.info.Caps = 0
	report := func(st *testStore, cfg DiskConfig, option, code byte, action uint16, n uint32) *Command {
		b := make([]byte, 12)
		b[0], b[1], b[2], b[3] = cdb.MaintenanceIn, cdb.ReportOpcodes, option, code
		binary.BigEndian.PutUint16(b[4:], action)
		binary.BigEndian.PutUint32(b[6:], n)
		return newRig(t, st, cfg).do(b, nil)
	}
	const timeouts = "000a 00 00 00000000"
	for _, k := range []struct {
		st     *testStore
		option byte
		code   byte
		action uint16
		want   string
	}{
		{plain, 1, cdb.Read10, 0, "00 03 000a 28 00 ffffffff 00 ffff 04"},
		{newTestStore(t, 1<<20), 1, cdb.Read10, 7, "00 03 000a 28 18 ffffffff 00 ffff 04"},
		{plain, 0x81, cdb.TestUnitReady, 0, "00 83 0006 00 00 00 00 00 04" + timeouts + "0000000a"},
		{plain, 1, cdb.ServiceActionIn16, cdb.ReadCapacity16, "05/24/00"},
		{plain, 2, cdb.ServiceActionIn16, cdb.ReadCapacity16, "00 03 0010 9e 10 0000000000000000 ffffffff 00 04"},
		{plain, 0x82, cdb.ServiceActionIn16, 0x11, "00 01 0000"},
		{plain, 2, cdb.ServiceActionIn16, 0x110, "00 01 0000"},
		{plain, 2, cdb.Read10, 0, "05/24/00"},
		{plain, 3, cdb.Read10, 0, "00 03 000a 28 00 ffffffff 00 ffff 04"},
		{plain, 3, cdb.Read10, 1, "05/24/00"},
		{plain, 3, cdb.MaintenanceIn, cdb.ReportTMFs, "00 03 000c a3 0d 80 00 0000 ffffffff 00 04"},
		{plain, 4, cdb.Read10, 0, "05/24/00"},
		{plain, 1, 0xff, 0, "00 01 0000"},
		{plain, 1, cdb.Unmap, 0, "00 01 0000"},
		{thinStore(t, 1<<20), 1, cdb.Unmap, 0, "00 03 000a 42 00 00000000 00 ffff 04"},
		{plain, 1, cdb.WriteSame16, 0, "00 03 0010 93 01 ffffffffffffffff ffffffff 00 04"},
		{thinStore(t, 1<<20), 1, cdb.WriteSame16, 0, "00 03 0010 93 09 ffffffffffffffff ffffffff 00 04"},
	} {
		c := report(k.st, DiskConfig{}, k.option, k.code, k.action, 256)
		if got := result(c); got != "good" {
			if got != k.want {
				t.Errorf("option %d, %02Xh/%02Xh: %s, want %s", k.option, k.code, k.action, got, k.want)
			}
		} else if !bytes.Equal(c.Data, unhex(t, k.want)) {
			t.Errorf("option %d, %02Xh/%02Xh: %x, want %s", k.option, k.code, k.action, c.Data, k.want)
		}
	}
	// All of them: each descriptor is true, and none is missing.
	for _, option := range []byte{0, reportRCTD} {
		c := report(thinStore(t, 1<<20), DiskConfig{NoCompareAndWrite: true}, option, 0, 0, 1<<16)
		size, rows := 8, 0
		if option != 0 {
			size = 20
		}
		for b := c.Data[4:]; len(b) > 0; b = b[size:] {
			rows++
			row := diskOps.find([]byte{b[0], b[3]})
			if row == nil || b[0] == cdb.CompareAndWrite || int(b[7]) != int(row.length) || b[5]&0x02 != 0 != (option != 0) || b[5]&0x01 != 0 != (diskOps.actions[b[0]] != nil) {
				t.Fatalf("descriptor %x", b[:size])
			}
		}
		if rows != 55 || binary.BigEndian.Uint32(c.Data) != uint32(rows*size) {
			t.Errorf("%d rows", rows)
		}
	}
}

func TestReportTMFs(t *testing.T) {
	for _, k := range []struct {
		repd  byte
		n     byte
		funcs []sam.TMF
		want  string
	}{
		{0, 4, nil, "fe070000"}, {0x80, 16, nil, "fe07000c 00000000 00000000 00000000"}, {0, 3, nil, "05/24/00"},
		{0, 255, []sam.TMF{sam.AbortTask, sam.ClearTaskSet, sam.QueryTaskSet}, "90020000"},
	} {
		c := newRig(t, newTestStore(t, 1<<20), DiskConfig{Functions: k.funcs}).do([]byte{cdb.MaintenanceIn, cdb.ReportTMFs, k.repd, 0, 0, 0, 0, 0, 0, k.n, 0, 0}, nil)
		if got := result(c); got != "good" && got != k.want || got == "good" && !bytes.Equal(c.Data, unhex(t, k.want)) {
			t.Errorf("%d bytes: %s %x, want %s", k.n, got, c.Data, k.want)
		}
	}
}

// TestProvisioning: pages B0h and B2h and READ CAPACITY(16) say what the commands do, and a feature that is switched off is
// nowhere.
func TestProvisioning(t *testing.T) {
	for _, k := range []struct {
		name   string
		change func(*backstore.Info)
		cfg    DiskConfig
		b0     string // bytes 4 and 5, 20 to 43
		b2     string
		rc16   byte
		absent []byte
	}{
		{"thin", nil, DiskConfig{}, "00ff 00100000 00000100 00000008 80000000 0000000000008000", "00e40200", 0xc0, nil},
		{"4Kn", nil, DiskConfig{LogicalBlock: 4096}, "00ff 00100000 00000100 00000001 80000000 0000000000001000", "00e40200", 0xc0, nil},
		{"not zeroing", func(i *backstore.Info) { i.DiscardZeroes = false }, DiskConfig{}, "00ff 00100000 00000100 00000008 80000000 0000000000008000", "00800200", 0x80, nil},
		{"no UNMAP", nil, DiskConfig{NoUnmap: true}, "00ff 00000000 00000000 00000000 00000000 0000000000008000", "00000000", 0, []byte{cdb.Unmap}},
		{"no WRITE SAME", nil, DiskConfig{NoWriteSame: true}, "00ff 00100000 00000100 00000008 80000000 0000000000000000", "00840200", 0xc0, []byte{cdb.WriteSame10, cdb.WriteSame16}},
		{"no ATS", nil, DiskConfig{NoCompareAndWrite: true, MaxWriteSame: 1 << 20}, "0000 00100000 00000100 00000008 80000000 0000000000000800", "00e40200", 0xc0, []byte{cdb.CompareAndWrite}},
		{"nothing", func(i *backstore.Info) { i.Caps = 0 }, DiskConfig{}, "00ff 00000000 00000000 00000000 00000000 0000000000008000", "00000000", 0, []byte{cdb.Unmap}},
	} {
		st := thinStore(t, 64<<20)
		if k.change != nil {
			k.change(&st.info)
		}
		r := newRig(t, st, k.cfg)
		b := r.do([]byte{cdb.Inquiry, 1, 0xb0, 0, 64, 0}, nil).Data
		if got := append(slices.Clone(b[4:6]), b[20:44]...); !bytes.Equal(got, unhex(t, k.b0)) {
			t.Errorf("%s: B0 %x, want %s", k.name, got, k.b0)
		}
		if b := r.do([]byte{cdb.Inquiry, 1, 0xb2, 0, 64, 0}, nil).Data; !bytes.Equal(b[4:], unhex(t, k.b2)) {
			t.Errorf("%s: B2 %x, want %s", k.name, b[4:], k.b2)
		}
		if b := r.do([]byte{cdb.ServiceActionIn16, cdb.ReadCapacity16, 13: 32, 15: 0}, nil).Data; b[14] != k.rc16 {
			t.Errorf("%s: READ CAPACITY(16) %x, want %x", k.name, b[14], k.rc16)
		}
		for _, code := range k.absent {
			b := make([]byte, 16)
			b[0] = code
			r.want(r.do(b, make([]byte, 512)), "05/20/00")
		}
	}
	// The limits hold.
	r := newRig(t, thinStore(t, 2<<30), DiskConfig{MaxWriteSame: 1 << 20})
	r.want(r.do(transfer(cdb.WriteSame16, 0, 2049, sameNDOB), nil), "05/24/00")
	r.want(r.do(transfer(cdb.WriteSame16, 0, 0, sameNDOB), nil), "05/24/00")
	r.want(r.do(transfer(cdb.WriteSame16, 0, 2048, sameNDOB), nil), "good")
	r.want(r.do(unmapCDB(40), unmapList(0, mostUnmapBlocks, 0, 1)), "05/26/00")
	if b := newRig(t, newTestStore(t, 1<<20), DiskConfig{}).do([]byte{cdb.Inquiry, 1, 0x86, 0, 64, 0}, nil).Data; b[5] != 7 || b[6] != 1 || len(b) != 64 {
		t.Errorf("page 86h: %x", b)
	}
}
