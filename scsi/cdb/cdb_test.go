package cdb

import "testing"

// TestRange: the fields of the four sizes, each at its largest value, and back.
func TestRange(t *testing.T) {
	for _, k := range []struct {
		op     byte
		lba    uint64
		blocks uint32
	}{
		{Read6, 0, 1}, {Write6, 1<<21 - 1, 255}, {Read6, 0x12345, 256},
		{Read10, 1<<32 - 1, 65535}, {Write10, 0x12345678, 0}, {Verify10, 5, 6}, {WriteSame10, 7, 8}, {SynchronizeCache10, 9, 10},
		{Read12, 1<<32 - 1, 1<<32 - 1}, {Write12, 0x12345678, 0},
		{Read16, 1<<64 - 1, 1<<32 - 1}, {Write16, 0x123456789abcdef0, 0}, {SynchronizeCache16, 1, 2}, {OrWrite16, 3, 4},
	} {
		b := Transfer(k.op, k.lba, k.blocks, 0)
		if lba, blocks := Range(b[:Len(k.op)]); lba != k.lba || blocks != k.blocks {
			t.Errorf("%s: %d+%d, want %d+%d", Name(b[:]), lba, blocks, k.lba, k.blocks)
		}
		for _, rest := range b[Len(k.op):] {
			if rest != 0 {
				t.Errorf("%s: bytes beyond its length", Name(b[:]))
			}
		}
	}
	b := Transfer(Write16, 0x0102030405060708, 0x090a0b0c, FUA|DPO|3<<5)
	if want := [16]byte{0x8a, 0x78, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xa, 0xb, 0xc, 0, 0}; b != want {
		t.Errorf("%x, want %x", b, want)
	}
	if Protect(b[:]) != 3 {
		t.Error("protect", Protect(b[:]))
	}
	if b[15] = NACA; Control(b[:]) != NACA {
		t.Error("control", Control(b[:]))
	}
}

// TestLen: the groups of operation codes (SPC-4 §4.2.5.1).
func TestLen(t *testing.T) {
	want := [8]int{6, 10, 10, 0, 16, 12, 0, 0}
	for op := range 256 {
		if got := Len(byte(op)); got != want[op>>5] {
			t.Errorf("opcode %02Xh: %d, want %d", op, got, want[op>>5])
		}
	}
}

func TestDescribe(t *testing.T) {
	slice := func(b [MaxLen]byte) []byte { return b[:] }
	for _, k := range []struct {
		b    []byte
		want string
	}{
		{nil, "empty CDB"},
		{[]byte{0xc7, 0, 0, 0, 0, 0}, "opcode C7h"},
		{[]byte{TestUnitReady, 0, 0, 0, 0, 0}, "TEST UNIT READY"},
		{slice(Transfer(Read10, 77, 8, FUA|DPO)), "READ(10) lba 77 blocks 8 fua dpo"},
		{slice(Transfer(Write6, 77, 0, 0)), "WRITE(6) lba 77 blocks 256"},
		{slice(Transfer(Write16, 1<<40, 9, 5<<5)), "WRITE(16) lba 1099511627776 blocks 9 protect 5"},
		{slice(Transfer(SynchronizeCache10, 1, 2, 2)), "SYNCHRONIZE CACHE(10) lba 1 blocks 2"},
		{[]byte{Inquiry, 1, 0x83, 0, 255, 0}, "INQUIRY vpd 83h"},
		{[]byte{Inquiry, 0, 0, 0, 255, 0}, "INQUIRY"},
		{[]byte{ModeSense6, 0, 0x7f, 0xff, 255, 0}, "MODE SENSE(6) page 3Fh/FFh"},
		{[]byte{ServiceActionIn16, ReadCapacity16, 15: 0}, "READ CAPACITY(16)"},
		{[]byte{ServiceActionIn16, 0x1f, 15: 0}, "SERVICE ACTION IN(16) action 1Fh"},
		{[]byte{PersistentOut, 5, 9: 0}, "PREEMPT AND ABORT"},
		{[]byte{Read10, 0, 0}, "READ(10)"}, // cut
		{[]byte{MaintenanceIn}, "MAINTENANCE IN"},
	} {
		if got := Describe(k.b); got != k.want {
			t.Errorf("%x: %q, want %q", k.b, got, k.want)
		}
	}
	b := Transfer(Read10, 1, 1, 0)
	if n := testing.AllocsPerRun(100, func() { _ = Name(b[:]); _, _ = Range(b[:]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDescribe(f *testing.F) {
	f.Add([]byte{Read10, 0})
	f.Add([]byte{PersistentIn, 1, 9: 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if Describe(b) == "" {
			t.Error("no words")
		}
	})
}
