package scsi

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

const (
	fuzzSize  = 32 << 10
	fuzzLimit = 32 // blocks of a command
)

// fuzzData is what WRITEs take their Data-Out from.
var fuzzData = func() (b [256 + 64<<10]byte) {
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}()

// fuzzDisk returns one of the kinds of store that take different ways through the LU.
func fuzzDisk(t *testing.T, kind byte) *rig {
	st := newTestStore(t, fuzzSize)
	const zeroing = backstore.CapDiscard | backstore.CapWriteZeroes | backstore.CapAllocation
	st.info.DiscardZeroes = true
	switch kind % 4 {
	case 0:
		st.info.Caps |= zeroing | backstore.CapCompareAndWrite
		st.info.MaxCompareAndWrite, st.info.MaxDiscard = 4096, 3000
	case 1:
		st.info.Caps = backstore.CapFlush
	case 2:
		st.info.BlockSize, st.info.MaxTransfer = 4096, 8192
		st.info.Caps |= zeroing
	case 3:
		st.info.Caps = 0
	}
	return newRig(t, st, DiskConfig{MaxTransfer: fuzzLimit * 512})
}

// FuzzCDB feeds commands to a disk, 17 bytes each (a CDB, and a length of Data-Out in units of 128 bytes; of MODE SELECT and
// UNMAP in bytes, and then that many bytes of parameter list), and compares what they do to the medium with a byte array.
// Whatever comes, a command ends in one of the ways that there are.
func FuzzCDB(f *testing.F) {
	add := func(kind byte, cdbs ...[]byte) {
		in := []byte{kind}
		for _, b := range cdbs {
			in = append(in, append(b, make([]byte, 16-len(b))...)...)
			in = append(in, 64)
		}
		f.Add(in)
	}
	for kind := range byte(4) {
		add(kind, transfer(cdb.Write10, 3, 7, 0), transfer(cdb.Read16, 0, 16, 0), transfer(cdb.Write6, 9, 4, 0), transfer(cdb.Read12, 9, 4, cdb.FUA),
			transfer(cdb.Write16, 58, 6, cdb.FUA|cdb.DPO), transfer(cdb.Read6, 0, 0, 0))
		add(kind, transfer(cdb.Read16, 1<<64-1, 1, 0), transfer(cdb.Write16, 1<<63, 1<<31, 0), transfer(cdb.Read10, 64, 0, 0), transfer(cdb.Read10, 65, 0, 0), transfer(cdb.Read10, 0, 33, 0))
	}
	add(0, []byte{cdb.Inquiry, 0, 0, 0, 96, 0}, []byte{cdb.Inquiry, 1, 0x83, 1, 0, 0}, []byte{cdb.Inquiry, 1, 0xb0, 0, 64, 0}, []byte{cdb.RequestSense, 1, 0, 0, 252, 0})
	add(1, []byte{cdb.ModeSense6, 0, 0x3f, 0xff, 255, 0}, []byte{cdb.ModeSense10, 0x10, 0x3f, 0, 0, 0, 0, 1, 0, 0}, []byte{cdb.ReportLUNs, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0})
	add(2, transfer(cdb.ReadCapacity10, 0, 0, 0), []byte{cdb.ServiceActionIn16, cdb.ReadCapacity16, 13: 32}, transfer(cdb.SynchronizeCache10, 0, 0, immed), transfer(cdb.SynchronizeCache16, 5, 5, 0))
	list := func(in []byte, b []byte, list ...byte) []byte {
		in = append(in, append(b, make([]byte, 16-len(b))...)...)
		return append(append(in, byte(len(list))), list...)
	}
	for kind := range byte(4) {
		in := list([]byte{kind}, []byte{cdb.Unmap, 8: 24}, 0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0, 0)
		in = list(in, []byte{cdb.ModeSelect6, selectPF, 4: 24}, append([]byte{0, 0, 0, 0, 8, 0x12}, make([]byte, 18)...)...)
		in = list(in, []byte{cdb.ModeSelect6, selectPF, 4: 16}, 0, 0, 0, 0, 0xa, 0xa, 4, 0, 8, 0, 0, 0, 2, 0x58, 0, 0)
		in = append(append(in, transfer(cdb.Write10, 0, 1, 0)...), 4)
		f.Add(in)
		add(kind, transfer(cdb.WriteVerify10, 3, 7, 2), transfer(cdb.Verify16, 0, 16, 2), transfer(cdb.OrWrite16, 9, 4, 0), transfer(cdb.Verify12, 9, 4, 0), transfer(cdb.Prefetch10, 0, 0, 0))
		for _, n := range []byte{4, 8, 64} {
			for _, b := range [][]byte{transfer(cdb.WriteSame10, 5, 7, sameUnmap), transfer(cdb.WriteSame16, 7, 0, sameNDOB), transfer(cdb.WriteSame16, 60, 4, sameNDOB|sameUnmap),
				transfer(cdb.WriteSame10, 0, 64, 0), transfer(cdb.CompareAndWrite, 3, 1, cdb.FUA), transfer(cdb.Verify10, 2, 40, 6)} {
				f.Add(append(append([]byte{kind}, b...), n))
			}
		}
	}
	add(3, []byte{cdb.ServiceActionIn16, cdb.GetLBAStatus, 13: 255}, []byte{cdb.MaintenanceIn, cdb.ReportOpcodes, 0x80, 8: 255}, []byte{cdb.MaintenanceIn, cdb.ReportTMFs, 0x80, 8: 255},
		[]byte{cdb.StartStopUnit}, []byte{cdb.PreventAllow, 4: 1}, []byte{cdb.SendDiagnostic, 4}, []byte{cdb.ReceiveDiagnostic, 1, 4: 255})
	add(3, []byte{0}, []byte{0x42}, []byte{0xff}, []byte{0x7f, 0, 0, 0, 0, 0, 0, 0x18, 0, 0x09})

	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		r := fuzzDisk(t, in[0])
		model, set := make([]byte, fuzzSize), plainModes{cache: r.lu.info.Has(backstore.CapFlush)}
		for in = in[1:]; len(in) >= 17; in = in[17:] {
			b := bytes.Clone(in[:16])
			out := fuzzData[len(in)&255:][:128*int(in[16])]
			if b[0] == cdb.Unmap || b[0] == cdb.ModeSelect6 || b[0] == cdb.ModeSelect10 {
				out = in[17:][:min(int(in[16]), len(in)-17)]
				in = in[len(out):]
			}
			c := r.cmd(b, out)
			c.Inventory = luns{sam.NewLUN(0), sam.NewLUN(300)}
			if r.start(c) != Done {
				t.Fatalf("%s went pending", cdb.Describe(b))
			}
			fuzzCheck(t, r, c, model, out, &set)
			set.check(t, r.lu, cdb.Describe(b))
		}
		r.lu.pr = persistent{} // REGISTER AND MOVE may have given a reservation away
		r.lu.regrant()
		got := r.do(transfer(cdb.Read10, 0, 32, 0), nil).Data
		got = append(bytes.Clone(got), r.do(transfer(cdb.Read10, 32, 32, 0), nil).Data...)
		if !bytes.Equal(got, model) {
			t.Fatal("the volume differs from the model")
		}
	})
}

func fuzzCheck(t *testing.T, r *rig, c *Command, model, out []byte, set *plainModes) {
	name := cdb.Describe(c.CDB)
	got := result(c)
	if got == conflicts && (r.nx.denied != 0 || c.CDB[0] == cdb.PersistentOut) {
		return
	}
	if got != "good" && (len(got) != 8 || got[:3] != "05/") && got != "07/27/02" && got != "0E/1D/00" {
		t.Fatalf("%s: %s", name, got)
	}
	if len(r.lu.pending) != 0 || r.lu.index.n != 0 {
		t.Fatalf("%s left something behind", name)
	}
	want, change := fuzzModel(r.lu, c.CDB, model, out)
	selects := c.CDB[0] == cdb.ModeSelect6 || c.CDB[0] == cdb.ModeSelect10
	if selects {
		want, change = set.sel(c.CDB, out)
	}
	switch {
	case want == "":
		if r.lu.ops.find(c.CDB) == nil && got == "good" {
			t.Fatalf("%s: good, and there is no such command", name)
		}
		return
	case r.lu.protected && !selects && r.lu.ops.find(c.CDB).resv == resvWrite:
		if got != "07/27/02" && got[:2] != "05" {
			t.Fatalf("%s: %s, and SWP is set", name, got)
		}
		return
	}
	if got[:2] != want[:2] || want[:2] != "05" && got != want {
		t.Fatalf("%s with %d bytes: %s, want %s", name, len(out), got, want)
	}
	if got != "good" {
		return
	}
	if change != nil {
		change()
	}
	switch c.CDB[0] {
	case cdb.Read6, cdb.Read10, cdb.Read12, cdb.Read16:
		lba, blocks := cdb.Range(c.CDB)
		if !bytes.Equal(c.Data, model[lba*512:][:blocks*512]) {
			t.Fatalf("%s: other data than was written", name)
		}
	}
}

// fuzzModel says by the words of the standard how a block command ends ("05": with ILLEGAL REQUEST) and what it does to
// the medium; "" for others.
func fuzzModel(lu *LU, b, model, out []byte) (want string, change func()) {
	const blocks512 = fuzzSize / 512
	illegal := "05"
	if lu.ops.find(b) == nil {
		return "", nil
	}
	lba, n := cdb.Range(b)
	inside := lba <= blocks512 && uint64(n) <= blocks512-lba
	bad := b[cdb.Len(b[0])-1]&cdb.NACA != 0
	fields := func(refused byte) {
		if lu.fua == noFUA {
			refused |= cdb.DPO
		}
		bad = bad || b[1]&(0xe0|refused) != 0
	}
	area := func() []byte { return model[lba*512:][:n*512] }
	switch b[0] {
	case cdb.Read6, cdb.Read10, cdb.Read12, cdb.Read16, cdb.Write6, cdb.Write10, cdb.Write12, cdb.Write16, cdb.OrWrite16,
		cdb.WriteVerify10, cdb.WriteVerify12, cdb.WriteVerify16:
		verify := b[0]&0x0f == 0x0e
		if b[0]>>5 != 0 {
			refused := byte(0)
			if lu.fua == noFUA {
				refused = cdb.FUA
			}
			if verify {
				refused = cdb.FUA | 0x04
			}
			fields(refused)
		}
		write := b[0]&0x0f != 0x08
		if bad = bad || !inside || n > fuzzLimit || write && len(out) < int(n)*512 && len(out)%512 != 0; bad {
			return illegal, nil
		}
		if !write {
			return "good", nil
		}
		return "good", func() {
			for i := range min(len(out), int(n)*512) {
				if b[0] == cdb.OrWrite16 {
					area()[i] |= out[i]
				} else {
					area()[i] = out[i]
				}
			}
		}
	case cdb.Verify10, cdb.Verify12, cdb.Verify16:
		fields(0x08)
		check := b[1] >> 1 & 3
		need := []int{0, int(n) * 512, 0, 512}[check]
		if n == 0 {
			need = 0
		}
		if bad = bad || !inside || check == 2 || check != 0 && n > fuzzLimit || len(out) < need; bad {
			return illegal, nil
		}
		if check == 3 && n != 0 {
			out = bytes.Repeat(out[:512], int(n))
		}
		if check != 0 && !bytes.Equal(area(), out[:n*512]) {
			return "0E/1D/00", nil
		}
		return "good", nil
	case cdb.CompareAndWrite:
		refused := byte(0)
		if lu.fua == noFUA {
			refused = cdb.FUA
		}
		fields(refused)
		if bad = bad || !inside || n > lu.maxCompare || len(out) != int(n)*1024; bad {
			return illegal, nil
		}
		if !bytes.Equal(area(), out[:n*512]) {
			return "0E/1D/00", nil
		}
		return "good", func() { copy(area(), out[n*512:]) }
	case cdb.WriteSame10, cdb.WriteSame16:
		bad = bad || b[1]&(0xe0|sameAnchor|0x06) != 0 || b[1]&sameUnmap != 0 && !lu.unmapSame || b[1]&sameNDOB != 0 && b[0] == cdb.WriteSame10
		if bad = bad || !inside || b[1]&sameNDOB == 0 && len(out) != 512; bad {
			return illegal, nil
		}
		if n == 0 {
			n = uint32(blocks512 - lba)
		}
		return "good", func() {
			clear(area())
			for at := area(); b[1]&sameNDOB == 0 && len(at) > 0; at = at[512:] {
				copy(at, out)
			}
		}
	case cdb.Unmap:
		return fuzzUnmap(b, model, out, bad)
	}
	return "", nil
}

func fuzzUnmap(b, model, out []byte, bad bool) (string, func()) {
	n := int(binary.BigEndian.Uint16(b[7:]))
	if bad || b[1]&1 != 0 || n > mostUnmapList || len(out) < n || n > 0 && n < 8 {
		return "05", nil
	}
	if n == 0 {
		return "good", func() {}
	}
	descriptors := int(binary.BigEndian.Uint16(out[2:]))
	if descriptors > n-8 {
		return "05", nil
	}
	after := bytes.Clone(model)
	for at := 8; at+16 <= 8+descriptors; at += 16 {
		lba, blocks := binary.BigEndian.Uint64(out[at:]), uint64(binary.BigEndian.Uint32(out[at+8:]))
		if lba > fuzzSize/512 || blocks > fuzzSize/512-lba {
			return "05", nil
		}
		clear(after[lba*512:][:blocks*512])
	}
	return "good", func() { copy(model, after) }
}
