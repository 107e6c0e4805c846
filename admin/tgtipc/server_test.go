package tgtipc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/test/deps"
)

// memo is a Logger that keeps what it is told.
type memo struct {
	mu    sync.Mutex
	lines []string
	told  chan struct{} // holds one when there is something new
}

func (m *memo) Debug(msg string, kv ...any) { m.add(msg, kv) }
func (m *memo) Info(msg string, kv ...any)  { m.add(msg, kv) }
func (m *memo) Warn(msg string, kv ...any)  { m.add(msg, kv) }

func (m *memo) add(msg string, kv []any) {
	m.mu.Lock()
	m.lines = append(m.lines, msg+" "+fmt.Sprintln(kv...))
	m.mu.Unlock()
	select {
	case m.told <- struct{}{}:
	default:
	}
}

// wait returns when a line has been told that has all the words.
func (m *memo) wait(t *testing.T, words ...string) {
	t.Helper()
	for {
		m.mu.Lock()
		for _, l := range m.lines {
			all := true
			for _, w := range words {
				all = all && strings.Contains(l, w)
			}
			if all {
				m.mu.Unlock()
				return
			}
		}
		m.mu.Unlock()
		select {
		case <-m.told:
		case <-t.Context().Done():
			t.Fatalf("nobody said %q", words)
		}
	}
}

// A live is a server on a socket of its own, with a fake behind it.
type live struct {
	*Server
	fake *fake
	log  *memo
}

func serve(t *testing.T, cfg Config) *live {
	t.Helper()
	log := &memo{told: make(chan struct{}, 1)}
	if cfg.Path == "" {
		cfg.Path = filepath.Join(t.TempDir(), "socket.0")
	}
	cfg.Logger = log
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l := &live{Server: s, fake: newFake(), log: log}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l.fake) }()
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *live) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", l.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// raw sends bytes and returns all that comes back.
func (l *live) raw(t *testing.T, pieces ...[]byte) []byte {
	t.Helper()
	c := l.dial(t)
	for _, p := range pieces {
		if _, err := c.Write(p); err != nil && !errors.Is(err, unix.EPIPE) { // closed already
			t.Fatal(err)
		}
	}
	b, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Fatal(err)
	}
	return b
}

func response(no Errno, text string) string {
	b := binary.NativeEndian.AppendUint32(nil, uint32(no))
	n := 8
	if text != "" {
		text += "\x00"
	}
	return string(binary.NativeEndian.AppendUint32(b, uint32(n+len(text)))) + text
}

func TestOneRequestOneResponse(t *testing.T) {
	l := serve(t, Config{})
	show := Header{Mode: ModeTarget, Op: OpShow, TID: NoTID, LUN: NoLUN}
	if got := l.raw(t, show.Append(nil, "")); string(got) != response(Success, "") {
		t.Errorf("an empty answer is %q", got)
	}
	add := Header{Mode: ModeTarget, Op: OpNew, TID: 7, LUN: NoLUN}
	b := add.Append(nil, "targetname=iqn.x")
	// As tgtadm sends it, and as it may come.
	if got := l.raw(t, b[:10], b[10:HeaderSize], b[HeaderSize:HeaderSize+3], b[HeaderSize+3:]); string(got) != response(Success, "") {
		t.Errorf("in pieces: %q", got)
	}
	if got := l.raw(t, b); string(got) != response(ErrTargetExists, "") {
		t.Errorf("once more: %q", got)
	}
	l.log.wait(t, "refused", "tid 7", "this target already exists", "iqn.x")
	add.Pack = WantReason
	if got := string(l.raw(t, add.Append(nil, "targetname=iqn.x"))); got != response(ErrTargetExists, "target iqn.x exists") {
		t.Errorf("with its reason: %q", got)
	}
	// Without a NUL, and with something behind one.
	h := Header{Mode: ModeTarget, Op: OpUpdate, TID: 7, LUN: NoLUN}
	b = h.Append(nil, "state=offline")
	binary.NativeEndian.PutUint32(b[offLen:], uint32(len(b)-1))
	if got := l.raw(t, b[:len(b)-1]); string(got) != response(Success, "") {
		t.Errorf("without a NUL: %q", got)
	}
	if got := l.raw(t, h.Append(nil, "state=ready\x00x")); string(got) != response(Success, "") {
		t.Errorf("with text behind the NUL: %q", got)
	}
	no, text, err := ReadResponse(strings.NewReader(string(l.raw(t, show.Append(nil, "")))), 1<<20)
	if no != Success || err != nil || !strings.HasPrefix(text, "Target 7: iqn.x\n") || !strings.Contains(text, "State: ready\n") {
		t.Errorf("%v, %q, %v", no, text, err)
	}
}

// What tgtd closes without an answer is closed, and what it waits for in vain ends.
func TestUnreadableRequests(t *testing.T) {
	l := serve(t, Config{ReadTimeout: 50 * time.Millisecond})
	h := Header{Mode: ModeTarget, Op: OpShow, TID: NoTID}
	length := func(n uint32) []byte {
		b := h.Append(nil, "")
		binary.NativeEndian.PutUint32(b[offLen:], n)
		return b
	}
	for name, b := range map[string][]byte{
		"119":  length(HeaderSize - 1),
		"0":    length(0),
		"8193": h.Append(nil, strings.Repeat("x", MaxPayload)),
		"4 GB": length(1<<32 - 1),
	} {
		if got := l.raw(t, b); len(got) != 0 {
			t.Errorf("length %s: answered %q", name, got)
		}
	}
	for _, n := range []int{0, 1, HeaderSize - 1} {
		if got := l.raw(t, h.Append(nil, "")[:n]); len(got) != 0 {
			t.Errorf("%d bytes of a header: answered %q", n, got)
		}
	}
	if got := l.raw(t, h.Append(nil, "payload")[:HeaderSize+2]); len(got) != 0 {
		t.Errorf("a part of a payload: answered %q", got)
	}
	l.log.wait(t, "dropped", "2 of the 8 bytes")
	// The longest payload that is taken.
	full := Header{Mode: ModeAccount, Op: OpNew, TID: NoTID}
	if got := l.raw(t, full.Append(nil, strings.Repeat("x", MaxPayload-1))); string(got) != response(ErrInvalidRequest, "") {
		t.Errorf("%d bytes: %q", MaxPayload, got)
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	l := serve(t, Config{})
	_, err := Listen(Config{Path: l.Path(), Logger: discard{}})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), l.Path()+".lock") {
		t.Errorf("a second server: %v", err)
	}
	show := Header{Mode: ModeAccount, Op: OpShow}
	if got := l.raw(t, show.Append(nil, "")); string(got) != response(Success, "") {
		t.Errorf("afterwards the first answers %q", got)
	}
	if _, err := Listen(Config{Path: "/" + strings.Repeat("x", 107)}); err == nil || !strings.Contains(err.Error(), "108 bytes") {
		t.Errorf("a path that is too long: %v", err)
	}
}

// tgtadm waits for a daemon's end until connecting is refused: the socket's file has to stay, and the next daemon takes its place.
func TestSocketStaysBehind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "socket.3")
	for range 2 {
		s, err := Listen(Config{Path: path, MakeDir: true, Logger: discard{}})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Serve(newFake()) }()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		del := Header{Mode: ModeSystem, Op: OpDelete}
		if _, err := c.Write(del.Append(nil, "")); err != nil {
			t.Fatal(err)
		}
		if no, _, err := ReadResponse(c, 0); no != Success || err != nil {
			t.Errorf("system delete: %v, %v", no, err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := net.Dial("unix", path); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("after the end: %v, want a refused connection", err)
		}
		if st, err := os.Stat(path + ".lock"); err != nil || st.Mode().Perm() != 0o644 {
			t.Errorf("the lock's file: %v, %v", st, err)
		}
	}
}

// The socket is for its owner alone, and nothing that is not a daemon's is taken for one of its files.
func TestFilesOfTheSocket(t *testing.T) {
	dir := t.TempDir()
	listen := func(name string) error {
		s, err := Listen(Config{Path: filepath.Join(dir, name), Logger: discard{}})
		if err != nil {
			return err
		}
		return s.Close(t.Context())
	}
	if err := listen("s"); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(dir, "s")); err != nil || st.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket: %v, %v", st.Mode(), err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := listen("file"); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file in the socket's place: %v", err)
	}
	if b, err := os.ReadFile(file); string(b) != "data" {
		t.Errorf("the file: %q, %v", b, err)
	}
	if err := os.Symlink("made", filepath.Join(dir, "l.lock")); err != nil {
		t.Fatal(err)
	}
	if err := listen("l"); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("a link in the lock's place: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "made")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("where the link leads: %v", err)
	}
}

// A request under way is answered before the server is closed.
func TestCloseWaitsForAnswers(t *testing.T) {
	l := serve(t, Config{})
	l.fake.block, l.fake.entered = make(chan struct{}), make(chan struct{})
	c := l.dial(t)
	show := Header{Mode: ModeSystem, Op: OpShow}
	if _, err := c.Write(show.Append(nil, "")); err != nil {
		t.Fatal(err)
	}
	<-l.fake.entered
	silent := l.dial(t) // is not waited for, but for closeGrace
	closed := make(chan error, 1)
	go func() { closed <- l.Close(context.Background()) }()
	<-l.still.Done()
	select {
	case err := <-closed:
		t.Fatalf("closed (%v) before the answer", err)
	default:
	}
	close(l.fake.block)
	if no, text, err := ReadResponse(c, 0); no != Success || err != nil || !strings.HasPrefix(text, "System:") {
		t.Errorf("%v, %q, %v", no, text, err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if n, err := silent.Read(make([]byte, 1)); err == nil {
		t.Errorf("a silent client read %d bytes", n)
	}
}

// More connections than are served at once wait, and are served.
func TestConnectionsAreBounded(t *testing.T) {
	l := serve(t, Config{MaxConns: 2})
	l.fake.block, l.fake.entered = make(chan struct{}), make(chan struct{}, 8)
	show := Header{Mode: ModeSystem, Op: OpShow}
	var conns []net.Conn
	for range 4 {
		c := l.dial(t)
		if _, err := c.Write(show.Append(nil, "")); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	<-l.fake.entered
	<-l.fake.entered
	if n := len(l.slots); n != 2 {
		t.Errorf("%d slots are taken", n)
	}
	if n := len(l.fake.entered); n != 0 {
		t.Errorf("%d more requests are served", n)
	}
	close(l.fake.block)
	for _, c := range conns {
		if no, _, err := ReadResponse(c, 0); no != Success || err != nil {
			t.Errorf("%v, %v", no, err)
		}
	}
}

// broken is a service with a fault.
type broken struct{ admin.Service }

func (broken) System() admin.SystemState { panic("a fault") }

func TestFaultCostsOneRequest(t *testing.T) {
	log := &memo{told: make(chan struct{}, 1)}
	s, err := Listen(Config{Path: filepath.Join(t.TempDir(), "s"), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	go func() { _ = s.Serve(broken{newFake()}) }()
	l := &live{Server: s}
	show := Header{Mode: ModeSystem, Op: OpShow}
	if got := l.raw(t, show.Append(nil, "")); string(got) != response(ErrUnknown, "") {
		t.Errorf("%q", got)
	}
	log.wait(t, "a fault of lunar's", "server_test.go")
	accounts := Header{Mode: ModeAccount, Op: OpShow}
	if got := l.raw(t, accounts.Append(nil, "")); string(got) != response(Success, "") {
		t.Errorf("the next request: %q", got)
	}
}

// Neither another user nor another group gets an answer, whatever the socket's mode.
func TestOnlyOwnUserAndGroup(t *testing.T) {
	if os.Getuid() != 0 {
		deps.Skip(t, "only root can be somebody else")
	}
	l := serve(t, Config{})
	// The way to the socket is open to everybody.
	for _, p := range []string{l.Path(), filepath.Dir(l.Path()), filepath.Dir(filepath.Dir(l.Path()))} {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	show := Header{Mode: ModeSystem, Op: OpShow}
	const nobody = 65534
	for name, become := range map[string]uintptr{"uid": unix.SYS_SETRESUID, "gid": unix.SYS_SETRESGID} {
		type result struct {
			n   int
			err error
		}
		got := make(chan result)
		go func() {
			// The thread is somebody else from here on, and ends with the goroutine, which never unlocks it.
			runtime.LockOSThread()
			n, err := askAs(become, nobody, l.Path(), show.Append(nil, ""))
			got <- result{n, err}
		}()
		if r := <-got; r.n > 0 || r.err != nil && !errors.Is(r.err, unix.ECONNRESET) && !errors.Is(r.err, unix.EPIPE) {
			t.Fatalf("another %s: %d bytes of an answer, %v", name, r.n, r.err)
		}
		l.log.wait(t, "refused", fmt.Sprintf("%s %d", name, nobody))
	}
	if got := l.raw(t, show.Append(nil, "")); !strings.HasPrefix(string(got), string([]byte{0, 0, 0, 0})) {
		t.Errorf("the daemon's own user: %q", got)
	}
}

// askAs sends a request as somebody else and returns how much came back.
func askAs(become, id uintptr, path string, request []byte) (int, error) {
	if _, _, no := unix.RawSyscall(become, id, id, id); no != 0 {
		return 0, no
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return 0, err
	}
	if _, err := unix.SendmsgN(fd, request, nil, nil, unix.MSG_NOSIGNAL); err != nil {
		return 0, err
	}
	return unix.Read(fd, make([]byte, 16))
}

// Two callers at once do not make two of one.
func TestConcurrentRequests(t *testing.T) {
	l := serve(t, Config{})
	add := Header{Mode: ModeTarget, Op: OpNew, TID: 1, LUN: NoLUN}
	b := add.Append(nil, "targetname=iqn.x")
	answers := make(chan string, 16)
	var wg sync.WaitGroup
	for range cap(answers) {
		wg.Go(func() { answers <- string(l.raw(t, b)) })
	}
	wg.Wait()
	close(answers)
	made := 0
	for a := range answers {
		switch a {
		case response(Success, ""):
			made++
		case response(ErrTargetExists, ""):
		default:
			t.Errorf("%q", a)
		}
	}
	if n := len(l.fake.Document().Targets); made != 1 || n != 1 {
		t.Errorf("%d were made, %d are there", made, n)
	}
}
