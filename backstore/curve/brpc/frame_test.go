package brpc

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// captured returns the frames of testdata, of which a long one is only begun.
func captured(t testing.TB) (frames [][]byte, requests []bool) {
	t.Helper()
	text, err := os.ReadFile("testdata/nebd.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		digits, _, _ := strings.Cut(line[2:], ".")
		frame, err := hex.DecodeString(digits[:len(digits)&^1])
		if err != nil {
			t.Fatalf("%s: %v", line[:40], err)
		}
		frames, requests = append(frames, frame), append(requests, line[0] == '>')
	}
	if len(frames) < 30 {
		t.Fatalf("%d frames", len(frames))
	}
	return frames, requests
}

// What libnebd and nebd-server have sent is read, and written again to the same bytes.
func TestCapturedFrames(t *testing.T) {
	frames, requests := captured(t)
	for i, f := range frames {
		body, meta, err := ParseHeader(f)
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		var m Meta
		if err := ParseMeta(f[HeaderSize:HeaderSize+meta], &m); err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if m.IsRequest != requests[i] {
			t.Errorf("frame %d: a request: %v", i, m.IsRequest)
		}
		message := f[HeaderSize+meta : HeaderSize+body-int(m.Attachment)]
		var again []byte
		if m.IsRequest {
			again = AppendRequest(nil, string(m.Service), string(m.Method), m.LogID, m.CorrelationID, message, int(m.Attachment))
		} else {
			again = AppendResponse(nil, m.Code, string(m.Text), m.CorrelationID, message, int(m.Attachment))
		}
		if want := f[:HeaderSize+body-int(m.Attachment)]; !bytes.Equal(again, want) {
			t.Errorf("frame %d:\n%x, want\n%x", i, again, want)
		}
	}
}

func TestErrorResponse(t *testing.T) {
	f := AppendResponse(nil, ENoMethod, "no", 7, nil, 0)
	var m Meta
	if err := ParseMeta(f[HeaderSize:], &m); err != nil || m.IsRequest || m.Code != ENoMethod || string(m.Text) != "no" || m.CorrelationID != 7 {
		t.Errorf("%+v, %v", m, err)
	}
	// A negative number is ten bytes long, and counted as that.
	f = AppendResponse(nil, -1, "", -2, nil, 0)
	if err := ParseMeta(f[HeaderSize:], &m); err != nil || m.Code != -1 || m.CorrelationID != -2 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestBadHeaders(t *testing.T) {
	header := func(magic string, body, meta uint32) []byte {
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte(magic), body), meta)
	}
	for what, h := range map[string][]byte{
		"another protocol":       header("HTTP", 10, 10),
		"a body beyond the most": header("PRPC", MaxBody+1, 10),
		"the largest body":       header("PRPC", 1<<32-1, 1<<32-1),
		"a meta beyond the body": header("PRPC", 10, 11),
	} {
		if _, _, err := ParseHeader(h); err == nil {
			t.Errorf("%s is no error", what)
		}
	}
	if body, meta, err := ParseHeader(header("PRPC", MaxBody, MaxBody)); err != nil || body != MaxBody || meta != MaxBody {
		t.Errorf("the largest frame: %d, %d, %v", body, meta, err)
	}
}

func TestBadMetas(t *testing.T) {
	for what, b := range map[string][]byte{
		"nothing":                          nil,
		"no request and no response":       {3 << 3, 0, 4 << 3, 1},
		"a request that is a number":       {1 << 3, 1},
		"a request beyond the end":         {1<<3 | 2, 100, 1},
		"a correlation id without an end":  {2<<3 | 2, 0, 4 << 3, 0x80},
		"a correlation id that is a text":  {2<<3 | 2, 0, 4<<3 | 2, 1, 'x'},
		"a request and a response":         {1<<3 | 2, 0, 2<<3 | 2, 0},
		"a group":                          {2<<3 | 2, 0, 9<<3 | 3},
		"a field number of 0":              {2<<3 | 2, 0, 0, 1},
		"a service that is a number":       {1<<3 | 2, 2, 1 << 3, 1},
		"an error code that is a text":     {2<<3 | 2, 3, 1<<3 | 2, 1, 'x'},
		"an error text beyond its message": {2<<3 | 2, 2, 2<<3 | 2, 9},
	} {
		if err := ParseMeta(b, new(Meta)); err == nil {
			t.Errorf("%s is no error", what)
		}
	}
	// What is not known is passed over, as brpc's later versions may send it.
	unknown := append([]byte{2<<3 | 2, 4, 1 << 3, 0, 9 << 3, 5}, 20<<3&0x7f|0x80, 1, 1)
	if err := ParseMeta(unknown, new(Meta)); err != nil {
		t.Errorf("fields that are not known: %v", err)
	}
}

func TestFields(t *testing.T) {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 300)
	b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), "two")
	b = protowire.AppendFixed32(protowire.AppendTag(b, 3, protowire.Fixed32Type), 3)
	b = protowire.AppendFixed64(protowire.AppendTag(b, 4, protowire.Fixed64Type), 4)
	var got []Field
	if err := Fields(b, func(f Field) error { got = append(got, f); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 4 || got[0].Value != 300 || string(got[1].Bytes) != "two" || got[2].Value != 3 || got[3].Value != 4 {
		t.Errorf("%+v", got)
	}
	for n := 1; n < len(b); n++ {
		err := Fields(b[:n], func(Field) error { return nil })
		whole := n == 3 || n == 8 || n == 13
		if (err == nil) != whole {
			t.Errorf("%d of %d bytes: %v", n, len(b), err)
		}
	}
}

func TestFramesAllocateNothing(t *testing.T) {
	buf := make([]byte, 0, 256)
	message := []byte{8, 2, 16, 0, 24, 0x80, 0x20}
	var m Meta
	if n := testing.AllocsPerRun(100, func() {
		f := AppendRequest(buf, "nebd.client.NebdFileService", "Read", 0, 1<<40, message, 0)
		_, meta, err := ParseHeader(f)
		if err == nil {
			err = ParseMeta(f[HeaderSize:HeaderSize+meta], &m)
		}
		if err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// Whatever is read as a meta can be written, and read again as the same.
func FuzzMeta(f *testing.F) {
	frames, _ := captured(f)
	for _, frame := range frames {
		_, meta, err := ParseHeader(frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame[HeaderSize : HeaderSize+meta])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, again Meta
		if ParseMeta(b, &m) != nil {
			return
		}
		attachment := int(max(m.Attachment, 0))
		var frame []byte
		if m.IsRequest {
			frame = AppendRequest(nil, string(m.Service), string(m.Method), m.LogID, m.CorrelationID, nil, attachment)
		} else {
			frame = AppendResponse(nil, m.Code, string(m.Text), m.CorrelationID, nil, attachment)
		}
		if err := ParseMeta(frame[HeaderSize:], &again); err != nil {
			t.Fatalf("%+v: %v", m, err)
		}
		if again.IsRequest != m.IsRequest || !bytes.Equal(again.Service, m.Service) || !bytes.Equal(again.Method, m.Method) || again.LogID != m.LogID ||
			again.CorrelationID != m.CorrelationID || again.Attachment != int64(attachment) || again.Code != m.Code && !m.IsRequest || !bytes.Equal(again.Text, m.Text) && !m.IsRequest {
			t.Fatalf("%+v became %+v", m, again)
		}
	})
}
