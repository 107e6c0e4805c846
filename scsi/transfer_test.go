package scsi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// TestBounds: LBA arithmetic at the sizes where it could wrap.
func TestBounds(t *testing.T) {
	const tib2 = int64(2) << 40
	top := uint64(math.MaxUint64)
	for _, d := range []struct {
		size  int64
		block int
	}{
		{512, 512}, {1 << 30, 512}, {tib2 - 512, 512}, {tib2, 512}, {tib2 + 512, 512}, {16 << 40, 512}, {math.MaxInt64 &^ 511, 512},
		{4096, 4096}, {16<<40 - 4096, 4096}, {16 << 40, 4096}, {16<<40 + 4096, 4096}, {math.MaxInt64 &^ 4095, 4096},
	} {
		r := newRig(t, newTestStore(t, d.size), DiskConfig{LogicalBlock: d.block})
		n := uint64(d.size) / uint64(d.block)
		for _, c := range []struct {
			lba    uint64
			blocks uint32
			want   string
		}{
			{0, 0, "good"}, {0, 1, "good"}, {n - 1, 1, "good"}, {n, 0, "good"}, {n - 1, 0, "good"},
			{n, 1, "05/21/00"}, {n - 1, 2, "05/21/00"}, {n + 1, 0, "05/21/00"}, {0, uint32(min(n+1, math.MaxUint32)), "over"},
			{top, 0, "05/21/00"}, {top, 1, "05/21/00"}, {top, math.MaxUint32, "05/21/00"}, {top - 7, 8, "05/21/00"},
			{1 << 63, 1, "05/21/00"}, {top/uint64(d.block) + 1, 1, "05/21/00"}, {n + 1<<32, 1, "05/21/00"},
		} {
			if c.want == "over" {
				if c.want = "05/21/00"; n >= math.MaxUint32 {
					c.want = "05/24/00" // within the medium and above MAXIMUM TRANSFER LENGTH
				}
			}
			for _, code := range []byte{cdb.Read16, cdb.Write16, cdb.Read12, cdb.Write12, cdb.Read10, cdb.Write10} {
				size := cdb.Len(code)
				if size < 16 && c.lba > math.MaxUint32 || size == 10 && c.blocks > math.MaxUint16 {
					continue
				}
				cmd := r.cmd(transfer(code, c.lba, c.blocks, 0), nil)
				cmd.OutLen = math.MaxUint32
				cmd.Owner = make([]byte, 2*d.block)
				r.start(cmd)
				if got := result(cmd); got != c.want {
					t.Errorf("%d bytes, blocks of %d: %s: %s, want %s", d.size, d.block, cdb.Describe(cmd.CDB), got, c.want)
				}
				if c.want == "05/21/00" {
					sd, _ := sense.Parse(cmd.Sense)
					if first := max(c.lba, n); sd.HasInfo != (first <= math.MaxUint32) || sd.HasInfo && sd.Info != first {
						t.Errorf("%s: information %v %d, want %d", cdb.Describe(cmd.CDB), sd.HasInfo, sd.Info, first)
					}
				}
			}
		}
		// What is written to the last block is there, and nowhere else.
		data := bytes.Repeat([]byte{0xa5}, d.block)
		r.want(r.do(transfer(cdb.Write16, n-1, 1, 0), data), "good")
		if got := r.do(transfer(cdb.Read16, n-1, 1, 0), nil).Data; !bytes.Equal(got, data) {
			t.Errorf("%d bytes: the last block reads %x…", d.size, got[:4])
		}
		if n > 1 {
			if got := r.do(transfer(cdb.Read16, 0, 1, 0), nil).Data; !bytes.Equal(got, make([]byte, d.block)) {
				t.Errorf("%d bytes: the first block was overwritten", d.size)
			}
		}
	}
}

// TestReadWrite6: 21 bits of LBA, and a length of zero that means 256.
func TestReadWrite6(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<30), DiskConfig{})
	data := bytes.Repeat([]byte{7}, 256*512)
	b := transfer(cdb.Write6, 1<<21-256, 0, 0)
	c := r.cmd(b, data)
	if !r.lu.Prepare(c) || c.Out != 256*512 {
		t.Fatalf("%s: out %d", result(c), c.Out)
	}
	r.want(r.do(b, data), "good")
	c = r.do(transfer(cdb.Read6, 1<<21-256, 0, 0), nil)
	r.want(c, "good")
	if !bytes.Equal(c.Data, data) {
		t.Fatal("other data")
	}
	r.want(r.do(b, data[:256*512-1]), "05/0E/03")
}

// TestShortDataOut: of a WRITE whose Data-Out is shorter than its CDB says, the whole blocks that come are written and nothing
// else; a part of a block is refused. Longer is the host's.
func TestShortDataOut(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	for _, n := range []int{1, 511, 513, 1023} {
		c := r.do(transfer(cdb.Write10, 0, 2, 0), make([]byte, n))
		if r.want(c, "05/0E/03"); c.Length != 1024 || c.Out != 0 || len(r.st.ops) != 0 {
			t.Fatalf("%d bytes: length %d, out %d, %d requests", n, c.Length, c.Out, len(r.st.ops))
		}
	}
	c := r.do(transfer(cdb.Write10, 0, 2, 0), nil)
	if r.want(c, "good"); c.Out != 0 || c.Length != 1024 || len(r.st.ops) != 0 {
		t.Fatalf("no data: out %d of %d, %d requests", c.Out, c.Length, len(r.st.ops))
	}
	c = r.do(transfer(cdb.Write10, 5, 2, 0), bytes.Repeat([]byte{7}, 512))
	if r.want(c, "good"); c.Out != 512 || c.Length != 1024 {
		t.Fatalf("one block of two: out %d of %d", c.Out, c.Length)
	}
	c = r.do(transfer(cdb.Read10, 5, 2, 0), nil)
	if r.want(c, "good"); !bytes.Equal(c.Data, append(bytes.Repeat([]byte{7}, 512), make([]byte, 512)...)) {
		t.Fatal("other blocks were written than came")
	}
	r.want(r.do(transfer(cdb.Write10, 0, 2, 0), make([]byte, 1025)), "good")
	if c := r.do(transfer(cdb.Write10, 0, 0, 0), nil); result(c) != "good" || c.Out != 0 {
		t.Fatal("no blocks:", result(c))
	}
}

// TestFieldErrors: bits of READ and WRITE that are not offered are refused, and pointed at.
func TestFieldErrors(t *testing.T) {
	plain := newTestStore(t, 1<<20)
	plain.info.Caps = 0
	for _, k := range []struct {
		name string
		st   *testStore
		b    []byte
		want string
		byte uint16
		bit  int8
	}{
		{"RDPROTECT", newTestStore(t, 1<<20), transfer(cdb.Read10, 0, 1, 1<<5), "05/24/00", 1, 7},
		{"RDPROTECT", newTestStore(t, 1<<20), transfer(cdb.Read16, 0, 1, 7<<5), "05/24/00", 1, 7},
		{"WRPROTECT", newTestStore(t, 1<<20), transfer(cdb.Write12, 0, 1, 3<<5), "05/24/00", 1, 7},
		{"FUA", newTestStore(t, 1<<20), transfer(cdb.Write10, 0, 1, cdb.FUA), "good", 0, 0},
		{"DPO", newTestStore(t, 1<<20), transfer(cdb.Read10, 0, 1, cdb.DPO), "good", 0, 0},
		{"FUA without", plain, transfer(cdb.Write10, 0, 1, cdb.FUA), "05/24/00", 1, 3},
		{"DPO without", plain, transfer(cdb.Read16, 0, 1, cdb.DPO|cdb.FUA), "05/24/00", 1, 4},
		{"NACA", newTestStore(t, 1<<20), append(transfer(cdb.Read10, 0, 1, 0)[:9], 0x04), "05/24/00", 9, 2},
		{"NACA", newTestStore(t, 1<<20), []byte{cdb.TestUnitReady, 0, 0, 0, 0, 0x04}, "05/24/00", 5, 2},
		{"too long", newTestStore(t, 1<<30), transfer(cdb.Read16, 0, 32769, 0), "05/24/00", 10, -1},
		{"too long", newTestStore(t, 1<<30), transfer(cdb.Write12, 0, 32769, 0), "05/24/00", 6, -1},
		{"too long", newTestStore(t, 1<<30), transfer(cdb.Read10, 0, 32769, 0), "05/24/00", 7, -1},
		{"short CDB", newTestStore(t, 1<<20), transfer(cdb.Read10, 0, 1, 0)[:8], "05/24/00", 8, -1},
		{"no CDB", newTestStore(t, 1<<20), nil, "05/24/00", 0, -1},
		{"opcode", newTestStore(t, 1<<20), []byte{0x42, 9: 0}, "05/20/00", 0, 0},
		{"service action", newTestStore(t, 1<<20), []byte{cdb.ServiceActionIn16, 0x1f, 15: 0}, "05/24/00", 1, 4},
	} {
		c := newRig(t, k.st, DiskConfig{}).do(k.b, make([]byte, 512))
		if got := result(c); got != k.want {
			t.Errorf("%s: %s, want %s", k.name, got, k.want)
			continue
		}
		if k.want != "05/24/00" {
			continue
		}
		d, _ := sense.Parse(c.Sense)
		if !d.HasField || d.Field != sense.InCDB || d.Byte != k.byte || d.Bit != k.bit {
			t.Errorf("%s: pointer %+v, want byte %d bit %d", k.name, d, k.byte, k.bit)
		}
	}
}

// TestEveryOpcode: what has no row is an invalid operation code, and every row's name and length are those
// of package cdb.
func TestEveryOpcode(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	rows := 0
	for i := range 256 {
		b := make([]byte, 16)
		b[0] = byte(i)
		row, actions := diskOps.code[i], diskOps.actions[i]
		switch {
		case row != nil:
			rows++
			if cdb.Name(b) != row.name || cdb.Len(b[0]) != int(row.length) {
				t.Errorf("opcode %02Xh: %s of %d, and %s of %d", i, row.name, row.length, cdb.Name(b), cdb.Len(b[0]))
			}
		case actions != nil:
			for sa, row := range actions {
				rows++
				b[1] = sa
				if cdb.Name(b) != row.name || cdb.Len(b[0]) != int(row.length) {
					t.Errorf("opcode %02Xh/%02Xh: %s, and %s", i, sa, row.name, cdb.Name(b))
				}
			}
		default:
			if got := result(r.do(b, nil)); got != "05/20/00" {
				t.Errorf("opcode %02Xh: %s", i, got)
			}
		}
	}
	if rows != 56 {
		t.Errorf("%d rows", rows)
	}
}

func TestReadOnly(t *testing.T) {
	st := newTestStore(t, 1<<20)
	r := newRig(t, st, DiskConfig{ReadOnly: true})
	r.want(r.do(transfer(cdb.Write10, 0, 1, 0), make([]byte, 512)), "07/27/00")
	r.want(r.do(transfer(cdb.Read10, 0, 1, 0), nil), "good")
	r.want(r.do(transfer(cdb.SynchronizeCache10, 0, 0, 0), nil), "good")
	if len(st.ops) != 1 {
		t.Fatal(st.ops)
	}
	if b := r.do([]byte{cdb.ModeSense6, 0, 0x3f, 0, 255, 0}, nil).Data; b[2]&0x80 == 0 {
		t.Fatal("WP is not set")
	}
	st.info.ReadOnly = true
	st.info.Caps = backstore.CapFlush
	st.ops = nil
	r = newRig(t, st, DiskConfig{})
	r.want(r.do(transfer(cdb.Read10, 0, 1, cdb.FUA), nil), "good")
	if len(st.ops) != 1 {
		t.Fatal("a read-only volume was flushed:", st.ops)
	}
	r.want(r.do(transfer(cdb.Write10, 0, 1, 0), make([]byte, 512)), "07/27/00")
}

// TestErrorClasses: what an initiator is told of each class, for a READ and a WRITE.
func TestErrorClasses(t *testing.T) {
	for _, k := range []struct {
		class       backstore.Class
		read, write string
		info        bool
	}{
		{backstore.ClassInternal, "04/44/00", "04/44/00", false},
		{backstore.ClassMedium, "03/11/00", "03/0C/00", true},
		{backstore.ClassIntegrity, "03/11/00", "03/0C/00", true},
		{backstore.ClassNotFound, "04/3E/01", "04/3E/01", false},
		{backstore.ClassOffline, "02/04/01", "02/04/01", false},
		{backstore.ClassBusy, "BUSY", "BUSY", false},
		{backstore.ClassNoSpace, "07/27/07", "07/27/07", false},
		{backstore.ClassNoSpaceTemp, "02/04/14", "02/04/14", false},
		{backstore.ClassReadOnly, "07/27/00", "07/27/00", false},
		{backstore.ClassTimeout, "0B/08/01", "0B/08/01", false},
		{backstore.ClassFenced, "02/04/0C", "02/04/0C", false},
		{backstore.ClassTransport, "02/04/01", "02/04/01", false},
		{backstore.ClassRange, "05/21/00", "05/21/00", false},
		{backstore.ClassUnsupported, "05/20/00", "05/20/00", false},
		{backstore.ClassMiscompare, "0E/1D/00", "0E/1D/00", false},
		{backstore.ClassCancelled, "0B/00/00", "0B/00/00", false},
		{200, "04/44/00", "04/44/00", false},
	} {
		st := newTestStore(t, 1<<20)
		st.fail = func(r *backstore.Request) error {
			return fmt.Errorf("test: %w", &backstore.Error{Class: k.class, Op: r.Op.String(), Off: 102 * 512})
		}
		r := newRig(t, st, DiskConfig{})
		for _, b := range [][]byte{transfer(cdb.Read10, 100, 8, 0), transfer(cdb.Write10, 100, 8, 0)} {
			want := k.read
			if b[0] == cdb.Write10 {
				want = k.write
			}
			for _, noWait := range []bool{false, true} {
				c := r.cmd(b, make([]byte, 4096))
				c.NoWait = noWait
				r.start(c)
				r.want(c, want)
				if d, _ := sense.Parse(c.Sense); d.HasInfo != k.info || k.info && d.Info != 102 {
					t.Errorf("%v: information %v %d", k.class, d.HasInfo, d.Info)
				}
				if c.Data != nil {
					t.Errorf("%v: data after a failure", k.class)
				}
			}
		}
	}
	// An offset outside the command is not believed.
	for _, off := range []int64{-1, 0, 99 * 512, 108 * 512} {
		st := newTestStore(t, 1<<20)
		st.fail = func(*backstore.Request) error { return &backstore.Error{Class: backstore.ClassMedium, Off: off} }
		c := newRig(t, st, DiskConfig{}).do(transfer(cdb.Read10, 100, 8, 0), nil)
		if d, _ := sense.Parse(c.Sense); !d.HasInfo || d.Info != 100 {
			t.Errorf("offset %d: information %v %d", off, d.HasInfo, d.Info)
		}
	}
	st := newTestStore(t, 1<<20)
	st.fail = func(*backstore.Request) error { return errors.New("not an *Error") }
	r := newRig(t, st, DiskConfig{})
	r.want(r.do(transfer(cdb.Read10, 0, 1, 0), nil), "04/44/00")
	r.want(r.do(transfer(cdb.SynchronizeCache10, 0, 0, 0), nil), "04/44/00")
}

// TestFUA: the store's flag where it has it, else a flush on the right side of the data.
func TestFUA(t *testing.T) {
	ops := func(caps backstore.Caps, code byte) (got []backstore.Op, flags backstore.Flags) {
		st := newTestStore(t, 1<<20)
		st.info.Caps = caps
		st.fail = func(r *backstore.Request) error { flags |= r.Flags; return nil }
		r := newRig(t, st, DiskConfig{})
		r.want(r.do(transfer(code, 8, 8, cdb.FUA|cdb.DPO), make([]byte, 4096)), "good")
		return st.ops, flags
	}
	for _, k := range []struct {
		caps  backstore.Caps
		code  byte
		want  []backstore.Op
		flags backstore.Flags
	}{
		{backstore.CapFUA | backstore.CapFlush, cdb.Write10, []backstore.Op{backstore.Write}, backstore.FUA},
		{backstore.CapFUA | backstore.CapFlush, cdb.Read10, []backstore.Op{backstore.Read}, backstore.FUA},
		{backstore.CapFUA | backstore.CapFlush | backstore.CapDPO, cdb.Read16, []backstore.Op{backstore.Read}, backstore.FUA | backstore.DPO},
		{backstore.CapFlush, cdb.Write16, []backstore.Op{backstore.Write, backstore.Flush}, 0},
		{backstore.CapFlush, cdb.Read12, []backstore.Op{backstore.Flush, backstore.Read}, 0},
	} {
		got, flags := ops(k.caps, k.code)
		if !slices.Equal(got, k.want) || flags != k.flags {
			t.Errorf("caps %x opcode %02Xh: %v flags %x, want %v flags %x", k.caps, k.code, got, flags, k.want, k.flags)
		}
	}
	// A WRITE with FUA whose flush fails is not good.
	st := newTestStore(t, 1<<20)
	st.info.Caps = backstore.CapFlush
	st.fail = func(r *backstore.Request) error {
		if r.Op == backstore.Flush {
			return &backstore.Error{Class: backstore.ClassMedium, Op: "flush"}
		}
		return nil
	}
	newRig(t, st, DiskConfig{}).want(newRig(t, st, DiskConfig{}).do(transfer(cdb.Write10, 0, 1, cdb.FUA), make([]byte, 512)), "03/0C/00")
}

// TestNoWait: what cannot end within Execute leaves no trace.
func TestNoWait(t *testing.T) {
	st := newTestStore(t, 1<<20)
	r := newRig(t, st, DiskConfig{})
	try := func(b []byte, want Outcome) {
		t.Helper()
		before := len(st.ops)
		c := r.cmd(b, make([]byte, 8192))
		c.NoWait = true
		if out := r.start(c); out != want {
			t.Fatalf("%s: outcome %d, want %d", cdb.Describe(b), out, want)
		}
		if want == Done {
			r.want(c, "good")
			return
		}
		if len(st.ops) != before || len(r.lu.pending) != 0 || r.lu.index.n != 0 {
			t.Fatal("WouldBlock left something behind")
		}
		c.NoWait = false
		if out := r.lu.Execute(c); out != Done {
			t.Fatal("the second try:", out)
		}
		r.want(c, "good")
	}
	read, write := transfer(cdb.Read10, 0, 8, 0), transfer(cdb.Write10, 0, 8, 0)
	try(read, Done)
	try(write, Done)
	st.busy = true
	try(read, WouldBlock)
	try(write, WouldBlock)
	st.busy = false
	r.lu.info.Caps &^= backstore.CapNoWaitWrite
	try(write, WouldBlock)
	try(read, Done)
	r.lu.info.Caps &^= backstore.CapNoWaitRead
	try(read, WouldBlock)
	// More steps than one.
	st.info.Caps = backstore.CapFlush | backstore.CapNoWaitRead | backstore.CapNoWaitWrite
	st.info.MaxTransfer = 4096
	r = newRig(t, st, DiskConfig{})
	try(transfer(cdb.Write10, 0, 8, cdb.FUA), WouldBlock)
	try(transfer(cdb.Write10, 0, 16, 0), WouldBlock)
	try(read, Done)
}

// TestBounce: a store with blocks larger than the logical block, or that wants aligned memory.
func TestBounce(t *testing.T) {
	st := newTestStore(t, 1<<20)
	st.info.BlockSize, st.info.MemAlign, st.info.MaxTransfer = 4096, 512, 10000
	r := newRig(t, st, DiskConfig{})
	model := make([]byte, 1<<20)
	for i, k := range []struct {
		lba    uint64
		blocks uint32
		reads  int // of blocks that the write covers in part
	}{
		{0, 8, 0}, {1, 1, 1}, {7, 1, 1}, {0, 1, 1}, {7, 2, 2}, {8, 8, 0}, {9, 30, 2}, {16, 9, 1}, {15, 9, 1}, {2040, 8, 0}, {2047, 1, 1}, {3, 100, 2},
	} {
		backing := make([]byte, k.blocks*512+1)
		data := backing[1:] // never aligned
		for j := range data {
			data[j] = byte(i + 1)
		}
		copy(model[k.lba*512:], data)
		st.ops = nil
		r.want(r.do(transfer(cdb.Write10, k.lba, k.blocks, 0), data), "good")
		reads := 0
		for _, op := range st.ops {
			if op == backstore.Read {
				reads++
			}
		}
		if reads != k.reads {
			t.Errorf("lba %d blocks %d: %d reads, want %d", k.lba, k.blocks, reads, k.reads)
		}
		c := r.cmd(transfer(cdb.Read10, k.lba, k.blocks, 0), nil)
		r.lu.Prepare(c)
		c.Buf = make([]byte, c.In+1)[1:]
		if r.lu.Execute(c) != Done || !bytes.Equal(c.Data, data) {
			t.Fatalf("lba %d blocks %d: %s, or other data", k.lba, k.blocks, result(c))
		}
	}
	if got := r.do(transfer(cdb.Read10, 0, 2048, 0), nil).Data; !bytes.Equal(got, model) {
		t.Fatal("the volume differs from the model")
	}
	// Two writes into one block of the store are kept apart.
	st.hold = true
	r.started(r.write(r.nx, 1, 1, 1), atStore)
	r.started(r.write(r.nx, 2, 1, 2), waiting)
	r.started(r.write(r.nx, 8, 1, 3), atStore)
	late := r.started(r.write(r.nx, 33, 1, 4), atStore)
	r.lu.Abort(late)
	st.end(2)
	if r.host.turn(); late.bounce != nil || len(st.held) != 2 {
		t.Fatal("an aborted write kept its memory, or went on")
	}
	// Memory that is not aligned cannot go straight to the store.
	st.info.Caps |= backstore.CapNoWaitRead
	st.hold = false
	c := r.cmd(transfer(cdb.Read10, 800, 8, 0), nil)
	c.NoWait = true
	r.lu.Prepare(c)
	c.Buf = make([]byte, c.In+1)[1:]
	if r.lu.Execute(c) != WouldBlock {
		t.Fatal("unaligned memory without waiting")
	}
}

// TestSplit: a transfer above the store's limit goes in pieces, one at a time; its first error ends it.
func TestSplit(t *testing.T) {
	st := newTestStore(t, 1<<20)
	st.info.MaxTransfer = 1000 // less than two blocks
	r := newRig(t, st, DiskConfig{})
	data := make([]byte, 5*512)
	for i := range data {
		data[i] = byte(i / 512)
	}
	r.want(r.do(transfer(cdb.Write10, 3, 5, 0), data), "good")
	if len(st.ops) != 5 {
		t.Fatalf("%d requests, want 5", len(st.ops))
	}
	if got := r.do(transfer(cdb.Read10, 3, 5, 0), nil).Data; !bytes.Equal(got, data) {
		t.Fatal("other data")
	}
	st.ops = nil
	st.fail = func(r *backstore.Request) error {
		if r.Off == 5*512 {
			return &backstore.Error{Class: backstore.ClassMedium, Op: "read", Off: r.Off}
		}
		return nil
	}
	c := r.do(transfer(cdb.Read10, 3, 5, 0), nil)
	r.want(c, "03/11/00")
	if d, _ := sense.Parse(c.Sense); d.Info != 5 || len(st.ops) != 3 {
		t.Fatalf("information %d after %d requests", d.Info, len(st.ops))
	}
}

// TestFull: above the bound an LU answers TASK SET FULL, or BUSY to a nexus that has nothing in it.
func TestFull(t *testing.T) {
	st := newTestStore(t, 1<<20)
	st.info.MaxInFlight = 2
	r := newRig(t, st, DiskConfig{MaxQueued: 3})
	b := r.attach("iqn.2024-01.example:b")
	st.hold = true
	r.started(r.write(r.nx, 0, 1, 1), atStore)
	r.started(r.write(r.nx, 1, 1, 1), atStore)
	r.started(r.write(r.nx, 2, 1, 1), queued)
	c := r.write(r.nx, 3, 1, 1)
	if r.lu.Prepare(c) {
		t.Fatal("data is asked for that nobody will take")
	}
	r.want(c, sam.TaskSetFull.String())
	c = r.read(b, 3, 1)
	r.start(c)
	r.want(c, sam.Busy.String())
	// Prepared while there was room, executed when there was none.
	st.end(0)
	r.host.turn()
	c = r.write(r.nx, 3, 1, 1)
	if !r.lu.Prepare(c) {
		t.Fatal(result(c))
	}
	c.Buf = c.Owner.([]byte)
	r.started(r.write(r.nx, 4, 1, 1), queued)
	if r.lu.Execute(c) != Done {
		t.Fatal("no bound in Execute")
	}
	r.want(c, sam.TaskSetFull.String())
	for len(st.held) > 0 {
		st.end(0)
		r.host.turn()
	}
	if len(r.lu.pending) != 0 || r.nx.pending != 0 {
		t.Fatal("something is left over")
	}
}

// TestKick: once for a batch, and only if something is at the store.
func TestKick(t *testing.T) {
	st := newTestStore(t, 1<<20)
	r := newRig(t, st, DiskConfig{})
	r.do(transfer(cdb.Read10, 0, 1, 0), nil)
	r.lu.Kick()
	st.hold = true
	r.started(r.read(r.nx, 0, 1), atStore)
	r.started(r.read(r.nx, 1, 1), atStore)
	r.lu.Kick()
	r.lu.Kick()
	if st.kicks != 1 {
		t.Fatalf("%d kicks, want 1", st.kicks)
	}
}

// TestDoneReenters: Done may start further commands, also the one that ended.
func TestDoneReenters(t *testing.T) {
	st := newTestStore(t, 1<<20)
	st.info.MaxInFlight = 1
	r := newRig(t, st, DiskConfig{})
	st.hold = true
	left := 20
	r.host.onDone = func(c *Command) {
		if left--; left > 0 {
			if out := r.start(c); out != Pending {
				t.Errorf("outcome %d", out)
			}
		}
	}
	r.started(r.write(r.nx, 0, 8, 1), atStore)
	next := r.started(r.write(r.nx, 20, 8, 3), queued)
	st.end(0)
	if r.host.turn(); next.state != atStore {
		t.Fatal("what Done started came before what was queued")
	}
	r.started(r.write(r.nx, 4, 8, 2), waiting)
	for len(st.held) > 0 {
		st.end(0)
		r.host.turn()
	}
	if len(r.lu.pending) != 0 || left > 0 {
		t.Fatalf("%d pending, %d left", len(r.lu.pending), left)
	}
}

// TestOffline: an LU that its host no longer trusts is not ready for anybody.
func TestOffline(t *testing.T) {
	st := newTestStore(t, 1<<20)
	r := newRig(t, st, DiskConfig{})
	st.hold = true
	r.started(r.write(r.nx, 0, 8, 1), atStore)
	behind := r.started(r.write(r.nx, 4, 8, 2), waiting)
	prepared := r.read(r.nx, 50, 1)
	r.lu.Prepare(prepared)
	prepared.Buf = make([]byte, 512)
	r.lu.SetOffline("broken")
	if r.lu.Execute(prepared) != Done {
		t.Fatal("pending")
	}
	r.want(prepared, "02/04/03")
	for _, b := range [][]byte{transfer(cdb.Read10, 0, 1, 0), transfer(cdb.Write10, 0, 1, 0), make([]byte, 6), transfer(cdb.SynchronizeCache10, 0, 0, 0),
		transfer(cdb.ReadCapacity10, 0, 0, 0), {cdb.ServiceActionIn16, cdb.ReadCapacity16, 13: 32, 15: 0}} {
		r.want(r.do(b, make([]byte, 512)), "02/04/03")
	}
	r.want(r.do([]byte{cdb.Inquiry, 0, 0, 0, 96, 0}, nil), "good")
	st.end(0)
	r.host.turn()
	r.want(behind, "02/04/03")
	if r.lu.Offline() != "broken" {
		t.Fatal(r.lu.Offline())
	}
}

// TestImmediateFlush: IMMED is answered at once, with one flush behind it and one more for all that came
// meanwhile.
func TestImmediateFlush(t *testing.T) {
	st := newTestStore(t, 1<<20)
	st.info.MaxInFlight = 1
	r := newRig(t, st, DiskConfig{})
	st.hold = true
	for range 5 {
		r.want(r.do(transfer(cdb.SynchronizeCache16, 0, 0, immed), nil), "good")
	}
	if len(st.held) != 1 || r.lu.InFlight() != 1 {
		t.Fatalf("%d flushes at the store, %d in flight", len(st.held), r.lu.InFlight())
	}
	w := r.started(r.write(r.nx, 0, 1, 1), queued)
	st.end(0)
	r.host.turn()
	if len(st.held) != 1 || len(st.ops) != 2 || st.ops[1] != backstore.Flush {
		t.Fatal("no second flush:", st.ops)
	}
	st.end(0)
	r.host.turn()
	if w.state != atStore || len(st.ops) != 3 {
		t.Fatal("the write did not follow:", st.ops)
	}
	for _, k := range []struct {
		lba    uint64
		blocks uint32
		want   string
	}{{0, 2048, "good"}, {2048, 0, "good"}, {2047, 2, "05/21/00"}, {2049, 0, "05/21/00"}, {math.MaxUint64, 1, "05/21/00"}} {
		c := r.cmd(transfer(cdb.SynchronizeCache16, k.lba, k.blocks, immed), nil)
		r.start(c)
		r.want(c, k.want)
	}
}

// pendNever answers WouldBlock to everything, against the contract.
type pendNever struct{ idleStore }

func (*pendNever) Submit(*backstore.Request) backstore.Outcome { return backstore.WouldBlock }
func (*pendNever) Close(context.Context) error                 { return nil }

func TestStoreAgainstContract(t *testing.T) {
	lu, err := NewDisk(&pendNever{*newIdleStore(false)}, &testHost{}, DiskConfig{})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{TB: t, lu: lu}
	r.nx = r.attach("a")
	r.want(r.do(transfer(cdb.Read10, 0, 1, 0), nil), "04/44/00")
}
