package nebd

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
)

const patience = 20 * time.Second

// A fixture is a server with a volume of each owner, and a client.
type fixture struct {
	t    *testing.T
	cfg  Config
	s    *Server
	died chan string
}

func start(t *testing.T, edit func(*Config)) *fixture {
	t.Helper()
	dir := t.TempDir()
	pool, err := NewPool(filepath.Join(dir, "pool"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"/vol0", "/vol1", "/a/b_c"} {
		if err := pool.Create(v, Volume{Owner: "user", Size: 11 << 30}); err != nil {
			t.Fatal(err)
		}
	}
	f := &fixture{t: t, died: make(chan string, 1)}
	f.cfg = Config{Pool: pool, Socket: filepath.Join(dir, "s"), Meta: filepath.Join(dir, "meta"), Died: func(why string) { f.died <- why }}
	if edit != nil {
		edit(&f.cfg)
	}
	f.again()
	t.Cleanup(func() { f.s.Kill() })
	return f
}

func (f *fixture) again() {
	f.t.Helper()
	var err error
	if f.s, err = Start(f.cfg); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) client() *brpc.Client {
	f.t.Helper()
	c, err := brpc.Dial(f.t.Context(), "unix", f.cfg.Socket)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(c.Close)
	return c
}

// call makes a call that is answered, and returns its retCode and field 3.
func call(t *testing.T, c *brpc.Client, method string, message, data []byte) (code int32, field3 []byte, got []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	service := fileService
	if method == "KeepAlive" {
		service = heartbeatService
	}
	m, got, err := c.Call(ctx, service, method, message, data)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	code = 1
	if err := brpc.Fields(m, func(f brpc.Field) error {
		switch {
		case f.Number == 1:
			code = int32(f.Value)
		case f.Number == 3 && f.Type == protowire.VarintType:
			field3 = []byte{byte(f.Value)}
		case f.Number == 3:
			field3 = f.Bytes
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return code, field3, got
}

func openMessage(name string, flags ...byte) []byte {
	b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name)
	if len(flags) > 0 {
		b = protowire.AppendBytes(protowire.AppendTag(b, 2, protowire.BytesType), flags)
	}
	return b
}

func rangeMessage(fd byte, off, size uint64) []byte {
	return number(number(number(nil, 1, uint64(fd)), 2, off), 3, size)
}

// open opens a name with exclusive=false and returns its descriptor.
func open(t *testing.T, c *brpc.Client, name string) byte {
	t.Helper()
	code, fd, _ := call(t, c, "OpenFile", openMessage(name, 8, 0), nil)
	if code != 0 || len(fd) != 1 {
		t.Fatalf("opening %s: %d, %v", name, code, fd)
	}
	return fd[0]
}

// unanswered makes a call that must not be answered. The other call, which is answered after it, tells that it was not.
func unanswered(t *testing.T, c *brpc.Client, method string, message, data []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if m, _, err := c.Call(ctx, fileService, method, message, data); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%s is answered: %x, %v", method, m, err)
	}
}

// rest makes up what is not in the file of a long frame: its data goes on as it begins.
func rest(frame []byte, size, attachment int) []byte {
	if len(frame) >= size {
		return frame
	}
	at := size - attachment
	step := frame[at+1] - frame[at]
	for i := len(frame); i < size; i++ {
		if string(frame[at:at+4]) == "NEBD" {
			frame = append(frame, frame[i-4])
		} else {
			frame = append(frame, frame[i-1]+step)
		}
	}
	return frame
}

// What the real server has answered to libnebd, this one answers to the same bytes, but for the memory that nobody has set in GetInfo.
func TestCapturedFrames(t *testing.T) {
	f := start(t, nil)
	open(t, f.client(), "cbd:pool//vol0_user_") // vol1 then has descriptor 2
	text, err := os.ReadFile("../../backstore/curve/brpc/testdata/nebd.txt")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", f.cfg.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	compared := 0
	var method string
	resized, discarded := false, false // the frames are of a server over local files: it tells of the new size, and discards at once; one with a cluster does neither
	for _, line := range strings.Split(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		digits, _, _ := strings.Cut(line[2:], ".")
		frame, err := hex.DecodeString(digits[:len(digits)&^1])
		if err != nil {
			t.Fatal(err)
		}
		body, meta, err := brpc.ParseHeader(frame)
		if err != nil {
			t.Fatal(err)
		}
		var m brpc.Meta
		if err := brpc.ParseMeta(frame[brpc.HeaderSize:brpc.HeaderSize+meta], &m); err != nil {
			t.Fatal(err)
		}
		if line[0] == '>' {
			method = string(m.Method)
			resized, discarded = resized || method == "ResizeFile", discarded || method == "Discard"
			if _, err := conn.Write(rest(frame, brpc.HeaderSize+body, int(m.Attachment))); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got := make([]byte, brpc.HeaderSize+body)
		if _, err := io.ReadFull(conn, got[:len(frame)]); err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		if method == "GetInfo" { // size and blocksize, around objSize and objNums
			at := brpc.HeaderSize + meta
			ours, theirs := got[at:len(frame)], frame[at:]
			if string(ours[:5]) != string(theirs[:5]) || !resized && string(ours[5:10]) != string(theirs[5:10]) || string(ours[len(ours)-3:]) != string(theirs[len(theirs)-3:]) {
				t.Errorf("GetInfo:\n%x, want\n%x", ours, theirs)
			}
		} else if n := len(frame); discarded && method == "Read" && !bytes.Equal(got[:brpc.HeaderSize+meta+2], frame[:brpc.HeaderSize+meta+2]) ||
			!(discarded && method == "Read") && !bytes.Equal(got[:n], frame) {
			t.Errorf("%s:\n%x, want\n%x", method, got[:len(frame)], frame)
		}
		if _, err := io.ReadFull(conn, got[len(frame):]); err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		compared++
	}
	if compared < 15 {
		t.Errorf("%d answers were compared", compared)
	}
}

// Error answers, as they were seen.
func TestErrors(t *testing.T) {
	f := start(t, nil)
	c := f.client()
	fd := open(t, c, "cbd:pool//vol1_user_")
	for _, tc := range []struct {
		what, method  string
		message, data []byte
		want          int32
	}{
		{"a missing volume", "OpenFile", openMessage("cbd:pool//none_user_", 8, 0), nil, -1},
		{"another scheme", "OpenFile", openMessage("rbd:pool//vol1_user_", 8, 0), nil, -1},
		{"no owner", "OpenFile", openMessage("cbd:pool//vol1", 8, 0), nil, -1},
		{"another owner", "OpenFile", openMessage("cbd:pool//vol1_other_", 8, 0), nil, -1},
		{"other flags", "OpenFile", openMessage("cbd:pool//vol1_user_", 8, 1), nil, -1},
		{"no flags", "OpenFile", openMessage("cbd:pool//vol1_user_"), nil, -1},
		{"an unknown descriptor", "Read", rangeMessage(99, 0, 4096), nil, -1},
		{"an unknown descriptor", "GetInfo", number(nil, 1, 99), nil, -1},
		{"an unknown descriptor", "CloseFile", number(nil, 1, 99), nil, 0},
		{"data of another size", "Write", rangeMessage(fd, 0, 4096), make([]byte, 512), -1},
		{"an unknown descriptor", "KeepAlive", append(number(nil, 1, 1), 0x12, 1, 'v', 0x1a, 5, 8, 99, 0x12, 1, 'x'), nil, -1},
		{"to less", "ResizeFile", number(number(nil, 1, uint64(fd)), 2, 10<<30), nil, -1},
		{"by half a segment", "ResizeFile", number(number(nil, 1, uint64(fd)), 2, 11<<30+1<<29), nil, -1},
		{"to too much", "ResizeFile", number(number(nil, 1, uint64(fd)), 2, 20<<40+1<<30), nil, -1},
		{"to the same", "ResizeFile", number(number(nil, 1, uint64(fd)), 2, 11<<30), nil, 0},
		{"beyond the end", "Discard", rangeMessage(fd, 100<<30, 512), nil, 0},
	} {
		if code, _, _ := call(t, c, tc.method, tc.message, tc.data); code != tc.want {
			t.Errorf("%s: %s: %d, want %d", tc.method, tc.what, code, tc.want)
		}
	}
	for _, tc := range []struct {
		what, service, method string
		message               []byte
		want                  int32
	}{
		{"a missing field", fileService, "Read", number(nil, 1, 1), brpc.ERequest},
		{"no message", fileService, "OpenFile", []byte{0xff}, brpc.ERequest},
		{"an unknown method", fileService, "Nope", nil, brpc.ENoMethod},
		{"an unknown service with a dot", "nebd.client.Nope", "Read", nil, brpc.ENoMethod},
		{"an unknown service", "Nope", "Read", nil, brpc.ENoService},
		{"a service by its short name", "NebdFileService", "Flush", number(nil, 1, 1), 0},
	} {
		_, _, err := c.Call(t.Context(), tc.service, tc.method, tc.message, nil)
		var e *brpc.Error
		if tc.want == 0 && err != nil || tc.want != 0 && (!errors.As(err, &e) || e.Code != tc.want) {
			t.Errorf("%s: %v, want code %d", tc.what, err, tc.want)
		}
	}
}

// One descriptor a name, whoever opens it, and one close for all.
func TestDescriptors(t *testing.T) {
	f := start(t, nil)
	a, b := f.client(), f.client()
	fd := open(t, a, "cbd:pool//vol1_user_")
	if again := open(t, b, "cbd:pool//vol1_user_"); again != fd {
		t.Errorf("opened again: %d, want %d", again, fd)
	}
	if alias := open(t, b, "cbd:other//vol1_user_"); alias == fd {
		t.Error("another name has the same descriptor")
	}
	if busy, err := f.cfg.Pool.InUse("/vol1"); err != nil || !busy {
		t.Errorf("in use: %v, %v", busy, err)
	}
	call(t, b, "CloseFile", number(nil, 1, uint64(fd)), nil)
	if code, _, _ := call(t, a, "Read", rangeMessage(fd, 0, 4096), nil); code != -1 {
		t.Errorf("a read after somebody else's close: %d", code)
	}
}

// The size is that of the open, and I/O goes by that of now.
func TestFrozenSize(t *testing.T) {
	f := start(t, nil)
	c := f.client()
	fd := open(t, c, "cbd:pool//a/b_c_user_")
	size := func(fd byte) uint64 {
		t.Helper()
		_, info, _ := call(t, c, "GetInfo", number(nil, 1, uint64(fd)), nil)
		field, _, err := brpc.NextField(info)
		if err != nil {
			t.Fatal(err)
		}
		return field.Value
	}
	if err := f.cfg.Pool.Extend("/a/b_c", 12<<30); err != nil {
		t.Fatal(err)
	}
	if open(t, c, "cbd:pool//a/b_c_user_") != fd || size(fd) != 11<<30 {
		t.Errorf("the size after the volume has grown: %d", size(fd))
	}
	if code, _, _ := call(t, c, "Write", rangeMessage(fd, 11<<30, 4096), make([]byte, 4096)); code != 0 {
		t.Errorf("a write beyond the old end: %d", code)
	}
	if alias := open(t, c, "cbd:x//a/b_c_user_"); size(alias) != 12<<30 {
		t.Errorf("the size under another name: %d", size(alias))
	}
	if code, _, _ := call(t, c, "ResizeFile", number(number(nil, 1, uint64(fd)), 2, 14<<30), nil); code != 0 || size(fd) != 11<<30 {
		t.Errorf("after resizing: %d, size %d", code, size(fd))
	}
}

// A request that is not in whole blocks kills the server.
func TestDeath(t *testing.T) {
	for _, m := range [][]byte{rangeMessage(1, 512, 4096), rangeMessage(1, 0, 512), rangeMessage(1, 0, 4095)} {
		f := start(t, nil)
		c := f.client()
		open(t, c, "cbd:pool//vol1_user_")
		if _, _, err := c.Call(t.Context(), fileService, "Read", m, nil); !errors.Is(err, brpc.ErrLost) {
			t.Errorf("%x: %v", m, err)
		}
		if why := <-f.died; !strings.Contains(why, "double free") {
			t.Error(why)
		}
		f.s.Kill()
	}
}

// What fails is never answered, and its descriptor cannot be closed any more; everything then hangs there, and the server does not stop.
func TestUnanswered(t *testing.T) {
	for what, m := range map[string][]byte{"no length": rangeMessage(1, 0, 0), "beyond the end": rangeMessage(1, 11<<30-4096, 8192), "an offset that is none": rangeMessage(1, 1<<63, 4096)} {
		t.Run(what, func(t *testing.T) {
			f := start(t, nil)
			c := f.client()
			fd := open(t, c, "cbd:pool//vol0_user_")
			other := open(t, c, "cbd:pool//vol1_user_")
			unanswered(t, c, "Read", m, nil)
			if code, _, _ := call(t, c, "Read", rangeMessage(fd, 0, 4096), nil); code != 0 {
				t.Errorf("another read: %d", code)
			}
			unanswered(t, c, "CloseFile", number(nil, 1, uint64(fd)), nil)
			unanswered(t, c, "Read", rangeMessage(fd, 0, 4096), nil)
			if code, _, _ := call(t, c, "Read", rangeMessage(other, 0, 4096), nil); code != 0 {
				t.Errorf("a read of another volume: %d", code)
			}
			stopped := make(chan struct{})
			go func() { f.s.Stop(); close(stopped) }()
			for {
				_, _, err := c.Call(t.Context(), fileService, "Read", rangeMessage(other, 0, 4096), nil)
				var e *brpc.Error
				if errors.As(err, &e) && e.Stopping() {
					break
				}
			}
			select {
			case <-stopped:
				t.Error("it has stopped")
			default:
			}
			f.s.Kill()
			<-stopped
		})
	}
	f := start(t, func(c *Config) { c.ReturnErrors = true })
	c := f.client()
	fd := open(t, c, "cbd:pool//vol0_user_")
	if code, _, _ := call(t, c, "Read", rangeMessage(fd, 11<<30, 4096), nil); code != -1 {
		t.Errorf("with returnRpcWhenIoError: %d", code)
	}
	if code, _, _ := call(t, c, "CloseFile", number(nil, 1, uint64(fd)), nil); code != 0 {
		t.Errorf("closing after that: %d", code)
	}
}

// The next server has the same descriptors, and goes on counting.
func TestSuccessor(t *testing.T) {
	for _, how := range []string{"stopped", "killed"} {
		t.Run(how, func(t *testing.T) {
			f := start(t, nil)
			c := f.client()
			open(t, c, "cbd:pool//vol0_user_")
			fd := open(t, c, "cbd:pool//vol1_user_")
			page := bytes.Repeat([]byte("page"), 1024)
			if code, _, _ := call(t, c, "Write", rangeMessage(fd, 4096, 4096), page); code != 0 {
				t.Fatalf("a write: %d", code)
			}
			if how == "stopped" {
				f.s.Stop()
			} else {
				f.s.Kill()
			}
			if _, err := net.Dial("unix", f.cfg.Socket); err == nil || os.IsNotExist(err) {
				t.Errorf("between servers: %v, want a refusal", err)
			}
			f.again()
			c = f.client()
			if code, _, got := call(t, c, "Read", rangeMessage(fd, 4096, 4096), nil); code != 0 || !bytes.Equal(got, page) {
				t.Errorf("a read from the successor: %d, %d bytes", code, len(got))
			}
			if next := open(t, c, "cbd:pool//a/b_c_user_"); next != fd+1 {
				t.Errorf("the next descriptor is %d", next)
			}
			if _, err := Start(f.cfg); err == nil {
				t.Error("two servers on one socket")
			}
		})
	}
}

// Without heartbeats a volume is closed, and opened again by the next request.
func TestHeartbeats(t *testing.T) {
	f := start(t, func(c *Config) { c.HeartbeatTimeout, c.HeartbeatCheck = time.Millisecond, time.Millisecond })
	c := f.client()
	fd := open(t, c, "cbd:pool//vol1_user_")
	for deadline := time.Now().Add(patience); !f.s.Opens()[0].Closed; {
		if time.Now().After(deadline) {
			t.Fatal("never closed")
		}
	}
	if code, _, _ := call(t, c, "Read", rangeMessage(fd, 0, 4096), nil); code != 0 {
		t.Errorf("a read after that: %d", code)
	}
	if o := f.s.Opens()[0]; o.Fd != int32(fd) || o.Exclusive {
		t.Errorf("%+v", o)
	}
}

// A volume that is deleted under an open descriptor is waited for, for ever.
func TestDeleted(t *testing.T) {
	f := start(t, nil)
	c := f.client()
	fd := open(t, c, "cbd:pool//vol1_user_")
	data, err := f.cfg.Pool.Data("/vol1")
	if err == nil {
		err = os.Remove(data)
	}
	if err != nil {
		t.Fatal(err)
	}
	unanswered(t, c, "Read", rangeMessage(fd, 0, 4096), nil)
}
