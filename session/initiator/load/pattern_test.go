package load

import (
	"bytes"
	"errors"
	"testing"
)

func TestPattern(t *testing.T) {
	whole := make([]byte, 64<<10)
	Fill(whole, 0)
	for _, c := range [][2]int{{0, 512}, {512, 512}, {4096, 8192}, {63 << 10, 1024}} {
		b := make([]byte, c[1])
		Fill(b, 1<<40)
		if bytes.Equal(b, whole[c[0]:c[0]+c[1]]) {
			t.Errorf("the pattern of 2^40 is that of %d", c[0])
		}
		Stamp(b, int64(c[0]))
		if !bytes.Equal(b, whole[c[0]:c[0]+c[1]]) {
			t.Errorf("stamped for %d+%d it differs from the whole", c[0], c[1])
		}
		if err := Check(b, int64(c[0])); err != nil {
			t.Error(err)
		}
	}
}

// TestCheckFindsEveryByte: one changed byte is found, whichever it is, at the line that it is in.
func TestCheckFindsEveryByte(t *testing.T) {
	b := make([]byte, 1024)
	Fill(b, 5<<20)
	for i := range b {
		b[i] ^= 0x40
		var m *MismatchError
		if err := Check(b, 5<<20); !errors.As(err, &m) || m.Offset != 5<<20+int64(i/64*64) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		b[i] ^= 0x40
	}
}

// TestMismatchNamesThePlace: data of another place on the volume is named as such.
func TestMismatchNamesThePlace(t *testing.T) {
	b := make([]byte, 512)
	Fill(b, 7<<30)
	err := Check(b, 4096)
	want := "content mismatch at byte 4096: "
	if err == nil || err.Error()[:len(want)] != want || !bytes.Contains([]byte(err.Error()), []byte("the name of byte 7516192768)")) {
		t.Errorf("data of 7 GiB at 4096: %v", err)
	}
	if err := Check(make([]byte, 512), 4096); err == nil || bytes.Contains([]byte(err.Error()), []byte("name of")) {
		t.Errorf("zeros at 4096: %v", err)
	}
}

func BenchmarkStamp4K(b *testing.B) {
	buf := make([]byte, 4096)
	Fill(buf, 0)
	b.SetBytes(4096)
	for i := 0; i < b.N; i++ {
		Stamp(buf, int64(i)*4096)
	}
}

func BenchmarkCheck4K(b *testing.B) {
	buf := make([]byte, 4096)
	Fill(buf, 0)
	b.SetBytes(4096)
	for i := 0; i < b.N; i++ {
		if err := Check(buf, 0); err != nil {
			b.Fatal(err)
		}
	}
}
