package sense

import (
	"bytes"
	"encoding/hex"
	"testing"
)

func TestFormats(t *testing.T) {
	for _, k := range []struct {
		d          Data
		fixed      string
		descriptor string
	}{
		{Data{Key: UnitAttention, Code: PowerOnOrReset, Bit: -1}, "700006000000000a00000000290000000000", "7206290000000000"},
		{Data{Key: MediumError, Code: UnrecoveredReadError, HasInfo: true, Info: 0x12345678, Bit: -1},
			"f00003123456780a00000000110000000000", "720311000000000c" + "000a8000" + "0000000012345678"},
		{Data{Key: IllegalRequest, Code: InvalidFieldInCDB, HasField: true, Field: InCDB, Byte: 2, Bit: 5},
			"700005000000000a00000000240000cd0002", "7205240000000008" + "02060000cd000200"},
		{Data{Key: IllegalRequest, Code: InvalidFieldInParameterList, HasField: true, Byte: 300, Bit: -1},
			"700005000000000a0000000026000080012c", "7205260000000008" + "0206000080012c00"},
		{Data{Key: AbortedCommand, Code: DataCRCError, Deferred: true, Bit: -1}, "71000b000000000a00000000470500000000", "730b470500000000"},
	} {
		fixed, descriptor := k.d.AppendFixed(nil), k.d.AppendDescriptor(nil)
		if got := hex.EncodeToString(fixed); got != k.fixed {
			t.Errorf("%v fixed: %s, want %s", k.d, got, k.fixed)
		}
		if got := hex.EncodeToString(descriptor); got != k.descriptor {
			t.Errorf("%v descriptor: %s, want %s", k.d, got, k.descriptor)
		}
		for _, b := range [][]byte{fixed, descriptor} {
			if back, err := Parse(b); err != nil || back != k.d {
				t.Errorf("%x reads as %+v (%v), want %+v", b, back, err, k.d)
			}
		}
	}
	// 64 bits fit the descriptor format only.
	d := Data{Key: MediumError, Code: WriteError, HasInfo: true, Info: 1 << 32, Bit: -1}
	if back, _ := Parse(d.AppendFixed(nil)); back.HasInfo {
		t.Error("fixed format with an LBA that does not fit")
	}
	if back, _ := Parse(d.AppendDescriptor(nil)); back != d {
		t.Error("descriptor format without the LBA")
	}
	// The most that there is fits MaxLen, and appending keeps what is there.
	d.PointAt(InData, 1, 1)
	b := d.AppendDescriptor([]byte{1, 2})
	if len(b) != 2+MaxLen || !bytes.Equal(b[:2], []byte{1, 2}) || int(b[2+7]) != MaxLen-8 {
		t.Errorf("%x", b)
	}
	if n := testing.AllocsPerRun(100, func() { b = d.AppendFixed(b[:0]); b = d.AppendDescriptor(b[:0]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNames(t *testing.T) {
	for want, got := range map[string]string{
		"NOT READY": NotReady.String(), "MISCOMPARE": Miscompare.String(), "INVALID FIELD IN CDB": InvalidFieldInCDB.String(), "7Fh/03h": Code(0x7f03).String(),
		"UNIT ATTENTION CAPACITY DATA HAS CHANGED": Data{Key: UnitAttention, Code: CapacityChanged}.String(),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// FuzzParse: any bytes are sense data or an error, and what was read is written the same way again.
func FuzzParse(f *testing.F) {
	for _, d := range []Data{{Key: UnitAttention, Code: PowerOnOrReset}, {Key: MediumError, HasInfo: true, Info: 1 << 40},
		{Key: IllegalRequest, HasField: true, Field: InCDB, Byte: 1, Bit: 3}} {
		f.Add(d.AppendFixed(nil))
		f.Add(d.AppendDescriptor(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Parse(b)
		if err != nil {
			return
		}
		if back, err := Parse(d.AppendDescriptor(nil)); err != nil || back != d {
			t.Fatalf("%x: %+v, and again %+v (%v)", b, d, back, err)
		}
	})
}
