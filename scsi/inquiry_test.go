package scsi

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// unhex reads hexadecimal with blanks.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// asciiHex returns s in hexadecimal.
func asciiHex(s string) string { return hex.EncodeToString([]byte(s)) }

// TestReplies is the table of commands and what they answer, byte for byte or as sense.
func TestReplies(t *testing.T) {
	disk := func(size int64, cfg DiskConfig, change func(*backstore.Info)) *LU {
		st := newTestStore(t, size)
		if change != nil {
			change(&st.info)
		}
		cfg.Serial = "SN1"
		lu, err := NewDisk(st, &testHost{}, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return lu
	}
	plain := func() *LU { return disk(1<<30, DiskConfig{}, nil) }
	controller := func() *LU { return NewController(ControllerConfig{Serial: "C1", Identity: "t"}) }
	noCache := func(i *backstore.Info) { i.Caps = 0 }
	std := " 06 12 5b 000002 " + asciiHex("LUNAR   ")
	versions := strings.Repeat("00", 22) + "00a0 0960 0460"
	for _, k := range []struct {
		name string
		lu   *LU
		cdb  string
		want string // hexadecimal, or key/asc/ascq
	}{
		{"INQUIRY", plain(), "12 00 00 0060 00", "00 00" + std + asciiHex("VIRTUAL-DISK    0001") + versions + "04c0" + strings.Repeat("00", 30)},
		{"INQUIRY cut", plain(), "12 00 00 0005 00", "00 00 06 12 5b"},
		{"INQUIRY nothing", plain(), "12 00 00 0000 00", ""},
		{"INQUIRY 16-bit length", plain(), "12 00 00 0124 00", "00 00" + std + asciiHex("VIRTUAL-DISK    0001") + versions + "04c0" + strings.Repeat("00", 30)},
		{"INQUIRY removable", disk(1<<20, DiskConfig{Removable: true, Vendor: "V", Product: "P", Revision: "R"}, nil), "12 00 00 0024 00",
			"00 80 06 12 5b 000002 " + asciiHex("V       P               R   ")},
		{"INQUIRY controller", controller(), "12 00 00 0060 00", "0c 00" + std + asciiHex("Controller      0001") + versions + strings.Repeat("00", 32)},
		{"INQUIRY absent", NewAbsent(), "12 00 00 0004 00", "7f 00 06 12"},
		{"INQUIRY page without EVPD", plain(), "12 00 80 0060 00", "05/24/00"},
		{"INQUIRY CMDDT", plain(), "12 02 00 0060 00", "05/24/00"},
		{"INQUIRY no such page", plain(), "12 01 8f 0060 00", "05/24/00"},
		{"VPD 00", plain(), "12 01 00 00ff 00", "00 00 0007 00 80 83 86 b0 b1 b2"},
		{"VPD 00 controller", controller(), "12 01 00 00ff 00", "0c 00 0003 00 80 83"},
		{"VPD 00 absent", NewAbsent(), "12 01 00 00ff 00", "7f 00 0001 00"},
		{"VPD B0 controller", controller(), "12 01 b0 00ff 00", "05/24/00"},
		{"VPD 80 absent", NewAbsent(), "12 01 80 00ff 00", "05/24/00"},
		{"VPD 80", plain(), "12 01 80 00ff 00", "00 80 0003" + asciiHex("SN1")},
		{"VPD 80 cut", plain(), "12 01 80 0005 00", "00 80 0003" + asciiHex("S")},
		{"VPD B0", plain(), "12 01 b0 00ff 00", "00 b0 003c 00 ff 0008 00008000 00000000" + strings.Repeat("00", 20) + "0000000000008000" + strings.Repeat("00", 20)},
		{"VPD B0 4Kn", disk(1<<30, DiskConfig{LogicalBlock: 4096, MaxTransfer: 1 << 20}, func(i *backstore.Info) { i.OptimalIO = 65536 }), "12 01 b0 00ff 00",
			"00 b0 003c 00 80 0001 00000100 00000010" + strings.Repeat("00", 20) + "0000000000001000" + strings.Repeat("00", 20)},
		{"VPD B0 odd optimum", disk(1<<30, DiskConfig{}, func(i *backstore.Info) { i.OptimalIO = 6144 }), "12 01 b0 0010 00", "00 b0 003c 00 ff 0008 00008000 00000000"},
		{"VPD B0 large optimum", disk(1<<30, DiskConfig{}, func(i *backstore.Info) { i.OptimalIO = 32 << 20 }), "12 01 b0 0010 00", "00 b0 003c 00 ff 0008 00008000 00000000"},
		{"VPD B0 optimum", disk(1<<30, DiskConfig{}, func(i *backstore.Info) { i.OptimalIO = 1 << 20 }), "12 01 b0 0010 00", "00 b0 003c 00 ff 0008 00008000 00000800"},
		{"VPD B1", plain(), "12 01 b1 00ff 00", "00 b1 003c 00 01" + strings.Repeat("00", 58)},
		{"VPD B1 rotational", disk(1<<20, DiskConfig{}, func(i *backstore.Info) { i.Rotational = true }), "12 01 b1 00ff 00", "00 b1 003c" + strings.Repeat("00", 60)},
		{"VPD B2", plain(), "12 01 b2 00ff 00", "00 b2 0004 00000000"},

		{"READ CAPACITY(10)", plain(), "25 00 00000000 0000 00 00", "001fffff 00000200"},
		{"READ CAPACITY(10) LBA", plain(), "25 00 00000001 0000 00 00", "05/24/00"},
		{"READ CAPACITY(10) PMI", plain(), "25 00 00000001 0000 01 00", "001fffff 00000200"},
		{"READ CAPACITY(10) 2^32 - 1 blocks", disk(2<<40-512, DiskConfig{}, nil), "25 00 00000000 0000 00 00", "fffffffe 00000200"},
		{"READ CAPACITY(10) 2^32 blocks", disk(2<<40, DiskConfig{}, nil), "25 00 00000000 0000 00 00", "ffffffff 00000200"},
		{"READ CAPACITY(10) 2^32 + 1 blocks", disk(2<<40+512, DiskConfig{}, nil), "25 00 00000000 0000 00 00", "ffffffff 00000200"},
		{"READ CAPACITY(10) controller", controller(), "25 00 00000000 0000 00 00", "05/20/00"},
		{"READ CAPACITY(16)", plain(), "9e 10 0000000000000000 00000020 0000", "00000000001fffff 00000200 00 03 0000" + strings.Repeat("00", 16)},
		{"READ CAPACITY(16) cut", plain(), "9e 10 0000000000000000 0000000c 0000", "00000000001fffff 00000200"},
		{"READ CAPACITY(16) nothing", plain(), "9e 10 0000000000000000 00000000 0000", ""},
		{"READ CAPACITY(16) long length", disk(16<<40, DiskConfig{LogicalBlock: 4096}, nil), "9e 10 0000000000000000 ffffffff 0000", "00000000ffffffff 00001000 00 00 0000" + strings.Repeat("00", 16)},

		{"TEST UNIT READY", plain(), "00 00 00 00 00 00", ""},
		{"TEST UNIT READY controller", controller(), "00 00 00 00 00 00", ""},
		{"TEST UNIT READY absent", NewAbsent(), "00 00 00 00 00 00", "05/25/00"},
		{"READ absent", NewAbsent(), "28 00 00000000 00 0001 00", "05/25/00"},
		{"service action absent", NewAbsent(), "9e 10 0000000000000000 00000020 0000", "05/25/00"},
		{"REQUEST SENSE", plain(), "03 00 0000 fc 00", "70 00 00 00000000 0a 00000000 0000 00 000000"},
		{"REQUEST SENSE DESC", plain(), "03 01 0000 fc 00", "72 00 0000 000000 00"},
		{"REQUEST SENSE absent", NewAbsent(), "03 00 0000 fc 00", "70 00 05 00000000 0a 00000000 2500 00 000000"},
		{"REQUEST SENSE cut", NewAbsent(), "03 01 0000 04 00", "72 05 2500"},

		{"MODE SENSE(6) caching", plain(), "1a 00 08 00 ff 00", "1f 00 10 08 00200000 00000200 08 12 04" + strings.Repeat("00", 17)},
		{"MODE SENSE(6) DBD", plain(), "1a 08 08 00 ff 00", "17 00 10 00 08 12 04" + strings.Repeat("00", 17)},
		{"MODE SENSE(6) no cache", disk(1<<20, DiskConfig{}, noCache), "1a 08 08 00 ff 00", "17 00 00 00 08 12 00" + strings.Repeat("00", 17)},
		{"MODE SENSE(6) changeable", plain(), "1a 08 48 00 ff 00", "17 00 10 00 08 12 04" + strings.Repeat("00", 17)},
		{"MODE SENSE(6) default", plain(), "1a 08 88 00 ff 00", "17 00 10 00 08 12 04" + strings.Repeat("00", 17)},
		{"MODE SENSE(6) saved", plain(), "1a 08 c8 00 ff 00", "05/39/00"},
		{"MODE SENSE(6) control", plain(), "1a 08 0a 00 ff 00", "0f 00 10 00 0a 0a 00 00 00 40 0000 0258 0000"},
		{"MODE SENSE(6) all", plain(), "1a 08 3f 00 ff 00", "23 00 10 00 08 12 04" + strings.Repeat("00", 17) + "0a 0a 00 00 00 40 0000 0258 0000"},
		{"MODE SENSE(6) all subpages", plain(), "1a 08 3f ff ff 00", "23 00 10 00 08 12 04" + strings.Repeat("00", 17) + "0a 0a 00 00 00 40 0000 0258 0000"},
		{"MODE SENSE(6) cut", plain(), "1a 08 3f 00 04 00", "23 00 10 00"},
		{"MODE SENSE(6) no such page", plain(), "1a 08 1d 00 ff 00", "05/24/00"},
		{"MODE SENSE(6) no such subpage", plain(), "1a 08 0a 01 ff 00", "05/24/00"},
		{"MODE SENSE(6) all changeable", plain(), "1a 08 7f 00 ff 00", "23 00 10 00 08 12 04" + strings.Repeat("00", 17) + "0a 0a 04 00 08 40" + strings.Repeat("00", 6)},
		{"MODE SENSE(10) control", plain(), "5a 08 0a 00 000000 0100 00", "0012 00 10 00 00 0000 0a 0a 00 00 00 40 0000 0258 0000"},
		{"MODE SENSE(10) descriptor", plain(), "5a 00 0a 00 000000 0100 00", "001a 00 10 00 00 0008 00200000 00000200 0a 0a 00 00 00 40 0000 0258 0000"},
		{"MODE SENSE(10) long descriptor", disk(4<<40, DiskConfig{}, nil), "5a 10 0a 00 000000 0100 00", "0022 00 10 01 00 0010 0000000200000000 00000000 00000200 0a 0a 00 00 00 40 0000 0258 0000"},
		{"MODE SENSE(10) too large for short", disk(4<<40, DiskConfig{}, nil), "5a 00 0a 00 000000 0010 00", "001a 00 10 00 00 0008 ffffffff 00000200"},
		{"MODE SENSE(6) controller", controller(), "1a 00 3f 00 ff 00", "05/20/00"},
	} {
		c := &Command{CDB: unhex(t, k.cdb)}
		if k.lu.Prepare(c) {
			if out := k.lu.Execute(c); out != Done {
				t.Fatalf("%s: outcome %d", k.name, out)
			}
		}
		if strings.Contains(k.want, "/") {
			if got := result(c); got != k.want {
				t.Errorf("%s: %s, want %s", k.name, got, k.want)
			}
			continue
		}
		if want := unhex(t, k.want); result(c) != "good" || !bytes.Equal(c.Data, want) {
			t.Errorf("%s: %s\n got %x\nwant %x", k.name, result(c), c.Data, want)
		}
	}
}

// designators returns page 83h's descriptors.
func designators(t *testing.T, lu *LU, nx *NexusLU) (list [][]byte) {
	t.Helper()
	c := &Command{Nexus: nx, CDB: []byte{cdb.Inquiry, 1, 0x83, 0x10, 0, 0}}
	if !lu.Prepare(c) || lu.Execute(c) != Done || result(c) != "good" {
		t.Fatal(result(c))
	}
	b := c.Data[4:]
	if int(binary.BigEndian.Uint16(c.Data[2:])) != len(b) {
		t.Fatalf("page length %d of %d", binary.BigEndian.Uint16(c.Data[2:]), len(b))
	}
	for len(b) > 0 {
		n := 4 + int(b[3])
		list = append(list, b[:n])
		b = b[n:]
	}
	return list
}

// MUST 7143 §4.4.2: in SCSI data the name of a target port is the iSCSI name, ",t," and the portal group tag in hexadecimal; that of
// an initiator port has ",i," and the ISID
func TestIdentification(t *testing.T) {
	st := newTestStore(t, 1<<20)
	lu, err := NewDisk(st, &testHost{}, DiskConfig{Identity: "6b1d", Vendor: "ACME", TargetPortGroup: 3, RelativePort: 9})
	if err != nil {
		t.Fatal(err)
	}
	nx := lu.Attach(sam.Nexus{Initiator: "iqn.a", Target: "iqn.2024-01.example:t", PortGroup: 2})
	got := designators(t, lu, nx)
	name := "iqn.2024-01.example:t"
	want := []string{
		"02 01 00 20" + asciiHex("ACME    "+lu.id.Serial),
		"01 03 00 08", // and the NAA
		"51 94 00 04 0000 0009",
		"51 95 00 04 0000 0003",
		"53 98 00 20" + asciiHex(name+",t,0x0002") + "0000",
		"53 a8 00 18" + asciiHex(name) + "000000",
	}
	if len(got) != len(want) {
		t.Fatalf("%d designators: %x", len(got), got)
	}
	for i, w := range want {
		if !bytes.HasPrefix(got[i], unhex(t, w)) || i != 1 && len(got[i]) != len(unhex(t, w)) {
			t.Errorf("designator %d: %x, want %s", i, got[i], w)
		}
	}
	if naa := got[1]; naa[4]>>4 != 3 {
		t.Errorf("NAA %x", naa)
	}
	if len(lu.id.Serial) != 24 {
		t.Errorf("serial %q", lu.id.Serial)
	}

	// The unit's own do not depend on path or nexus, and no two volumes share them.
	same, _ := NewDisk(newTestStore(t, 1<<30), &testHost{}, DiskConfig{Identity: "6b1d", Vendor: "ACME", TargetName: "iqn.other"})
	other, _ := NewDisk(newTestStore(t, 1<<20), &testHost{}, DiskConfig{Identity: "6b1e", Vendor: "ACME"})
	a, b := designators(t, same, nil), designators(t, other, nil)
	for i := range 2 {
		if !bytes.Equal(got[i], a[i]) || bytes.Equal(got[i], b[i]) {
			t.Errorf("designator %d: %x, same volume %x, other volume %x", i, got[i], a[i], b[i])
		}
	}
	if len(a) != 5 || len(b) != 4 {
		t.Errorf("without a nexus %d, without a name %d designators", len(a), len(b))
	}
	if got := designators(t, NewController(ControllerConfig{Identity: "t"}), nil); len(got) != 4 {
		t.Errorf("controller: %x", got)
	}
}

func TestConfigErrors(t *testing.T) {
	for name, k := range map[string]struct {
		cfg    DiskConfig
		change func(*backstore.Info)
	}{
		"block":              {cfg: DiskConfig{LogicalBlock: 513}},
		"small block":        {cfg: DiskConfig{LogicalBlock: 256}},
		"huge block":         {cfg: DiskConfig{LogicalBlock: 128 << 10}},
		"physical":           {cfg: DiskConfig{PhysicalBlock: 256}},
		"odd physical":       {cfg: DiskConfig{PhysicalBlock: 1536}},
		"vendor":             {cfg: DiskConfig{Vendor: "NINECHARS"}},
		"product":            {cfg: DiskConfig{Product: "SEVENTEEN LETTERS"}},
		"revision":           {cfg: DiskConfig{Revision: "00001"}},
		"serial":             {cfg: DiskConfig{Serial: strings.Repeat("s", 37)}},
		"control characters": {cfg: DiskConfig{Serial: "a\nb"}},
		"not ASCII":          {cfg: DiskConfig{Product: "Gerät"}},
		"transfer":           {cfg: DiskConfig{MaxTransfer: 512}},
		"much transfer":      {cfg: DiskConfig{MaxTransfer: 1<<30 + 1}},
		"queue":              {cfg: DiskConfig{MaxQueued: -1}},
		"size":               {change: func(i *backstore.Info) { i.Size = 1<<20 + 100 }},
		"empty":              {change: func(i *backstore.Info) { i.Size = 0 }},
		"size of 4Kn":        {cfg: DiskConfig{LogicalBlock: 4096}, change: func(i *backstore.Info) { i.Size = 1<<20 + 512 }},
		"store's block":      {change: func(i *backstore.Info) { i.BlockSize = 3000 }},
		"size and store":     {change: func(i *backstore.Info) { i.BlockSize, i.Size = 4096, 1<<20+512 }},
		"alignment":          {change: func(i *backstore.Info) { i.MemAlign = 3 }},
		"store's transfer":   {change: func(i *backstore.Info) { i.MaxTransfer = 511 }},
		"no identity":        {change: func(i *backstore.Info) { i.Identity = "" }},
	} {
		st := newTestStore(t, 1<<20)
		if k.change != nil {
			k.change(&st.info)
		}
		if lu, err := NewDisk(st, &testHost{}, k.cfg); err == nil || lu != nil {
			t.Errorf("%s: no error", name)
		}
	}
	lu, err := NewDisk(newTestStore(t, 1<<20), &testHost{}, DiskConfig{LogicalBlock: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if n, size := lu.Capacity(); n != 256 || size != 4096 {
		t.Fatal(n, size)
	}
}

// luns is an Inventory.
type luns []sam.LUN

// Reported needs to tell nobody.
func (l luns) Reported(sam.Nexus) {}

func (l luns) AppendLUNs(dst []sam.LUN) []sam.LUN { return append(dst, l...) }

func TestReportLUNs(t *testing.T) {
	var inv luns
	for i := range uint16(700) {
		inv = append(inv, sam.NewLUN(i*20))
	}
	lu := NewAbsent()
	for _, k := range []struct {
		sel        byte
		allocation uint32
		want       string
		listed     int // LUN LIST LENGTH / 8
		sent       int
	}{
		{0, 1 << 20, "good", 700, 8 + 8*700}, {2, 1 << 31, "good", 700, 8 + 8*700}, {0x11, 16, "good", 700, 16}, {0, 0, "good", 0, 0}, {0, 8, "good", 700, 8},
		{1, 256, "good", 0, 8}, {0x10, 256, "good", 0, 8}, {3, 256, "05/24/00", 0, 0}, {0x12, 256, "05/24/00", 0, 0}, {0xf8, 256, "05/24/00", 0, 0},
	} {
		b := make([]byte, 12)
		b[0], b[2] = cdb.ReportLUNs, k.sel
		binary.BigEndian.PutUint32(b[6:], k.allocation)
		c := &Command{CDB: b, Inventory: inv}
		if lu.Prepare(c) {
			lu.Execute(c)
		}
		if got := result(c); got != k.want || len(c.Data) != k.sent {
			t.Fatalf("select %02Xh, %d bytes: %s, %d bytes, want %s, %d", k.sel, k.allocation, got, len(c.Data), k.want, k.sent)
		}
		if k.sent < 8 {
			continue
		}
		if n := binary.BigEndian.Uint32(c.Data); n != uint32(8*k.listed) {
			t.Errorf("select %02Xh: list of %d bytes, want %d", k.sel, n, 8*k.listed)
		}
		for i := 8; i+8 <= len(c.Data); i += 8 {
			if got := sam.LUN(binary.BigEndian.Uint64(c.Data[i:])); got != inv[i/8-1] {
				t.Fatalf("LUN %d is %v, want %v", i/8-1, got, inv[i/8-1])
			}
		}
	}
	// A pooled Command does not keep the memory of a long list.
	c := &Command{CDB: []byte{cdb.ReportLUNs, 9: 0xff, 11: 0}, Inventory: inv}
	lu.Prepare(c)
	lu.Execute(c)
	c.CDB = []byte{cdb.RequestSense, 0, 0, 0, 252, 0}
	lu.Prepare(c)
	lu.Execute(c)
	if cap(c.own) > keepOwn {
		t.Errorf("%d bytes kept", cap(c.own))
	}
}

// TestUnitAttention: who is told what, in which order, by which commands.
func TestUnitAttention(t *testing.T) {
	st := newTestStore(t, 1<<20)
	lu, err := NewDisk(st, &testHost{}, DiskConfig{})
	if err != nil {
		t.Fatal(err)
	}
	a, b := lu.Attach(sam.Nexus{Initiator: "a"}), lu.Attach(sam.Nexus{Initiator: "b"})
	run := func(nx *NexusLU, cdb ...byte) *Command {
		c := &Command{Nexus: nx, CDB: cdb, Inventory: luns{0}}
		if lu.Prepare(c) {
			c.Buf = make([]byte, c.In)
			lu.Execute(c)
		}
		return c
	}
	tur := func(nx *NexusLU, want ...string) {
		t.Helper()
		for _, w := range want {
			if got := result(run(nx, 0, 0, 0, 0, 0, 0)); got != w {
				t.Fatalf("TEST UNIT READY: %s, want %s", got, w)
			}
		}
	}
	// Those three do not fail on it, and only REQUEST SENSE takes it.
	for _, c := range []*Command{run(a, cdb.Inquiry, 0, 0, 0, 36, 0), run(a, cdb.ReportLUNs, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0)} {
		if result(c) != "good" {
			t.Fatalf("%s: %s", cdb.Name(c.CDB), result(c))
		}
	}
	if c := run(a, cdb.RequestSense, 0, 0, 0, 18, 0); result(c) != "good" || c.Data[2] != 6 || c.Data[12] != 0x29 || c.Data[13] != 0 {
		t.Fatalf("REQUEST SENSE: %x", c.Data)
	}
	tur(a, "good")
	tur(b, "06/29/00", "good")

	// An opcode that is not there reports it too; a READ does.
	lu.Raise(sense.CapacityChanged, b)
	if got := result(run(a, transfer(cdb.Read10, 0, 1, 0)...)); got != "06/2A/09" {
		t.Fatal(got)
	}
	lu.Raise(sense.CapacityChanged, b)
	if got := result(run(a, 0xff, 0, 0, 0, 0, 0)); got != "06/2A/09" {
		t.Fatal(got)
	}
	tur(a, "good")
	tur(b, "good")

	// Resets first, the highest of them only; what they cover goes, the rest stays.
	a.Raise(sense.CapacityChanged)
	a.Raise(sense.CapacityChanged)
	a.Raise(sense.ModeParametersChanged)
	a.Raise(sense.NexusLoss)
	a.Raise(sense.PowerOn)
	a.Raise(sense.DeviceReset)
	tur(a, "06/29/01", "06/2A/09", "good")
	// What comes after the reset is news again.
	lu.Reset(sense.DeviceReset)
	a.Raise(sense.ModeParametersChanged)
	lu.Reset(sense.BusReset)
	b.Raise(sense.ModeParametersChanged)
	tur(a, "06/29/02", "good")
	tur(b, "06/29/02", "06/2A/01", "good")

	// REPORT LUNS is what 3Fh/0Eh asked for.
	a.Raise(sense.ReportedLUNsChanged)
	run(a, cdb.ReportLUNs, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0)
	tur(a, "good")

	lu.Detach(a)
	lu.Raise(sense.CapacityChanged, nil)
	tur(a, "good")
	tur(b, "06/2A/09", "good")
	c := lu.Attach(sam.Nexus{Initiator: "c"})
	lu.Detach(b)
	lu.Detach(c)
	if len(lu.nexuses) != 0 {
		t.Fatal(len(lu.nexuses))
	}
}
