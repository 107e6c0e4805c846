package scsi

import (
	"bytes"
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
	switch kind % 4 {
	case 1:
		st.info.Caps = backstore.CapFlush
	case 2:
		st.info.BlockSize, st.info.MaxTransfer = 4096, 8192
	case 3:
		st.info.Caps = 0
	}
	return newRig(t, st, DiskConfig{MaxTransfer: fuzzLimit * 512})
}

// FuzzCDB feeds commands to a disk, 17 bytes each (a CDB, and a length of Data-Out in units of 128 bytes), and
// compares READs and WRITEs with a byte array. Whatever comes, a command ends in one of the ways that there are.
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
	add(3, []byte{0}, []byte{0x42}, []byte{0xff}, []byte{0x7f, 0, 0, 0, 0, 0, 0, 0x18, 0, 0x09})

	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		r := fuzzDisk(t, in[0])
		model := make([]byte, fuzzSize)
		for in = in[1:]; len(in) >= 17; in = in[17:] {
			b := bytes.Clone(in[:16])
			out := fuzzData[len(in)&255:][:128*int(in[16])]
			c := r.cmd(b, out)
			c.Inventory = luns{sam.NewLUN(0), sam.NewLUN(300)}
			if r.start(c) != Done {
				t.Fatalf("%s went pending", cdb.Describe(b))
			}
			fuzzCheck(t, r, c, model, out)
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

func fuzzCheck(t *testing.T, r *rig, c *Command, model, out []byte) {
	name := cdb.Describe(c.CDB)
	got := result(c)
	if got == conflicts && (r.nx.denied != 0 || c.CDB[0] == cdb.PersistentOut) {
		return
	}
	if got != "good" && (len(got) != 8 || got[:3] != "05/") {
		t.Fatalf("%s: %s", name, got)
	}
	if len(r.lu.pending) != 0 || r.lu.index.n != 0 {
		t.Fatalf("%s left something behind", name)
	}
	var write bool
	switch c.CDB[0] {
	case cdb.Write6, cdb.Write10, cdb.Write12, cdb.Write16:
		write = true
	case cdb.Read6, cdb.Read10, cdb.Read12, cdb.Read16:
	default:
		if diskOps.find(c.CDB) == nil && got == "good" {
			t.Fatalf("%s: good, and there is no such command", name)
		}
		return
	}
	lba, blocks := cdb.Range(c.CDB)
	inside := lba <= fuzzSize/512 && uint64(blocks) <= fuzzSize/512-lba && blocks <= fuzzLimit
	bad := c.CDB[cdb.Len(c.CDB[0])-1]&cdb.NACA != 0 || !inside || write && len(out) < int(blocks)*512 && len(out)%512 != 0
	if c.CDB[0]>>5 != 0 {
		bad = bad || c.CDB[1]>>5 != 0 || r.lu.fua == noFUA && c.CDB[1]&(cdb.FUA|cdb.DPO) != 0
	}
	if (got == "good") == bad {
		t.Fatalf("%s with %d bytes: %s", name, len(out), got)
	}
	if bad {
		return
	}
	at := model[lba*512:][:blocks*512]
	if write {
		copy(at, out) // the whole blocks that there are
	} else if !bytes.Equal(c.Data, at) {
		t.Fatalf("%s: other data than was written", name)
	}
}
