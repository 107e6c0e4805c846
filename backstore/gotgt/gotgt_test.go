package gotgt

import (
	"context"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gostor/gotgt/pkg/api"
	"github.com/gostor/gotgt/pkg/scsi"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

// openURI opens a volume through a registry, as a daemon does.
func openURI(t testing.TB, text string, remotes map[string]Remote, o backstore.Options) (backstore.Store, error) {
	t.Helper()
	u, err := backstore.ParseURI(text)
	if err != nil {
		t.Fatal(err)
	}
	return backstore.NewRegistry(Driver(remotes)).Open(t.Context(), u, o)
}

func mustOpen(t testing.TB, text string, remotes map[string]Remote, o backstore.Options) backstore.Store {
	t.Helper()
	st, err := openURI(t, text, remotes, o)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func fileOf(t testing.TB, size int64) (uri string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return "gotgt:file:" + (&url.URL{Path: path}).EscapedPath()
}

// gotgt's own file store.
func TestFile(t *testing.T) {
	var uri string
	backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
		uri = fileOf(t, size)
		return mustOpen(t, uri, nil, backstore.Options{})
	}, backstoretest.Options{
		Allocates: true, // gotgt's Read returns memory of its own
		Reopen:    func(t *testing.T) backstore.Store { return mustOpen(t, uri, nil, backstore.Options{}) },
		OpenReadOnly: func(t *testing.T, size int64) backstore.Store {
			return mustOpen(t, fileOf(t, size)+"?readonly", nil, backstore.Options{})
		},
	})
}

// A back end as a program that embeds a target has it.
type memory struct {
	mu    sync.Mutex
	b     []byte
	syncs int
	fail  error         // of the next syncs
	short bool          // transfers end early
	boom  bool          // calls panic
	held  chan struct{} // calls wait for it to be closed; nil: they do not
}

func (m *memory) enter() {
	if m.held != nil {
		<-m.held
	}
	if m.boom {
		panic("boom")
	}
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	m.enter()
	m.mu.Lock()
	defer m.mu.Unlock()
	n := copy(p, m.b[off:])
	if m.short {
		n--
	}
	if int(off)+n == len(m.b) {
		return n, io.EOF // as io.ReaderAt may
	}
	return n, nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.enter()
	m.mu.Lock()
	defer m.mu.Unlock()
	n := copy(m.b[off:], p)
	if m.short {
		n--
	}
	return n, nil
}

func (m *memory) Sync() (int, error) {
	m.enter()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.syncs++
	return 0, m.fail
}

func (m *memory) Unmap(off, n int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.b[off : off+n])
	return int(n), nil
}

func TestRemote(t *testing.T) {
	var m *memory
	open := func(t *testing.T, size int64, o backstore.Options) backstore.Store {
		return mustOpen(t, "gotgt:vol1", map[string]Remote{"vol1": {Store: m, Size: size, Discard: true}}, o)
	}
	backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
		m = &memory{b: make([]byte, size)}
		return open(t, size, backstore.Options{})
	}, backstoretest.Options{
		Reopen: func(t *testing.T) backstore.Store { return open(t, int64(len(m.b)), backstore.Options{}) },
		OpenReadOnly: func(t *testing.T, size int64) backstore.Store {
			m = &memory{b: make([]byte, size)}
			return open(t, size, backstore.Options{ReadOnly: true})
		},
	})
}

func remoteStore(t testing.TB, m *memory, c Config) *Store {
	t.Helper()
	m.b = make([]byte, 1<<20)
	st, err := NewRemote(m, int64(len(m.b)), c)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// What a back end does wrong is told as what it is, and no less than all of a transfer is GOOD.
func TestFaults(t *testing.T) {
	write := func(flags backstore.Flags) *backstore.Request {
		return &backstore.Request{Op: backstore.Write, Len: 512, Buf: make([]byte, 512), Flags: flags}
	}
	read := func() *backstore.Request {
		return &backstore.Request{Op: backstore.Read, Len: 512, Buf: make([]byte, 512)}
	}
	for _, c := range []struct {
		name  string
		m     *memory
		r     *backstore.Request
		class backstore.Class
		text  string
	}{
		{"a short read", &memory{short: true}, read(), backstore.ClassMedium, "511 bytes were read of 512"},
		{"a short write", &memory{short: true}, write(0), backstore.ClassMedium, "511 bytes were written of 512"},
		{"a panic", &memory{boom: true}, write(0), backstore.ClassInternal, "panicked: boom"},
		{"a sync that fails", &memory{fail: errors.New("no power")}, write(backstore.FUA), backstore.ClassMedium, "no power"},
		{"an error of lunar's", &memory{fail: &backstore.Error{Class: backstore.ClassNoSpace, Op: "sync"}}, write(backstore.FUA), backstore.ClassNoSpace, "no space"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := backstoretest.NewHarness(t, remoteStore(t, c.m, Config{}), false)
			err := h.Do(c.r)
			if backstore.ClassOf(err) != c.class || err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.class, c.text)
			}
			c.m.boom, c.m.short, c.m.fail = false, false, nil
			// After a sync that failed nothing is written any more; after the others all is well.
			err = h.Do(write(0))
			if failed := c.r.Flags&backstore.FUA != 0; failed != (backstore.ClassOf(err) == backstore.ClassMedium && err != nil) {
				t.Errorf("a write afterwards: %v", err)
			}
			if err := h.Do(read()); err != nil {
				t.Errorf("a read afterwards: %v", err)
			}
			if c.r.Flags&backstore.FUA != 0 {
				h.CloseFails(backstore.ClassMedium)
			} else {
				h.Close()
			}
		})
	}
}

// A call that does not return keeps its worker; the others go on, and Close gives up and leaves the back end alone until it has returned.
func TestSilent(t *testing.T) {
	m := &memory{held: make(chan struct{})}
	st := remoteStore(t, m, Config{Workers: 2, InFlight: 4})
	ended := make(chan *backstore.Request, 4)
	c := completer(ended)
	for range 4 {
		if out := st.Submit(&backstore.Request{Op: backstore.Write, Len: 512, Buf: make([]byte, 512), C: c}); out != backstore.Pending {
			t.Fatalf("outcome %d", out)
		}
	}
	over := &backstore.Request{Op: backstore.Write, Len: 512, Buf: make([]byte, 512), C: c}
	if out := st.Submit(over); out != backstore.Done || backstore.ClassOf(over.Err) != backstore.ClassBusy {
		t.Errorf("a fifth request: %d, %v", out, over.Err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errors.New("so long and no longer"))
	defer cancel()
	if err := st.Close(ctx); backstore.ClassOf(err) != backstore.ClassBusy || !strings.Contains(err.Error(), "4 calls") {
		t.Errorf("Close: %v", err)
	}
	close(m.held)
	for range 4 {
		if r := <-ended; r.Err != nil {
			t.Errorf("a write that had to wait: %v", r.Err)
		}
	}
	st.workers.Wait() // they end once nothing is left
}

type completer chan *backstore.Request

func (c completer) Complete(r *backstore.Request) { c <- r }

// stuck is an api.BackingStore whose Open does not return before it may.
type stuck struct {
	api.BackingStore
	may    chan struct{}
	closed chan struct{}
}

func (s *stuck) Open(*api.SCSILu, string) error         { <-s.may; return nil }
func (s *stuck) Size(*api.SCSILu) uint64                { return 1 << 20 }
func (s *stuck) DataSync(int64, int64) error            { return nil }
func (s *stuck) Close(*api.SCSILu) error                { close(s.closed); return nil }
func (s *stuck) Init(*api.SCSILu, string) error         { return nil }
func (s *stuck) Unmap([]api.UnmapBlockDescriptor) error { return nil }

// An Open that hangs is given up, and what it opens after all is closed again.
func TestOpenHangs(t *testing.T) {
	s := &stuck{may: make(chan struct{}), closed: make(chan struct{})}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	_, err := openLocal(ctx, s, "x", Config{})
	if backstore.ClassOf(err) != backstore.ClassOffline || !strings.Contains(err.Error(), "enough") {
		t.Errorf("openLocal: %v", err)
	}
	close(s.may)
	<-s.closed
}

// spans is an api.BackingStore that notes what it is asked to unmap.
type spans struct {
	stuck
	got []api.UnmapBlockDescriptor
}

func (s *spans) Unmap(d []api.UnmapBlockDescriptor) error { s.got = append(s.got, d...); return nil }

// gotgt's descriptor has 32 bits for a length.
func TestLongUnmap(t *testing.T) {
	s := &spans{}
	if err := (local{bs: s}).unmap(512, 5<<30); err != nil {
		t.Fatal(err)
	}
	next := uint64(512)
	for _, d := range s.got {
		if d.Offset != next || d.TL == 0 || d.TL%blockSize != 0 {
			t.Errorf("a piece at %d of %d bytes, want it at %d", d.Offset, d.TL, next)
		}
		next += uint64(d.TL)
	}
	if next != 512+5<<30 {
		t.Errorf("the pieces end at %d", next)
	}
}

func TestRefusals(t *testing.T) {
	small := fileOf(t, 511)
	good := fileOf(t, 1<<20)
	for _, c := range []struct {
		uri, want string
		class     backstore.Class
	}{
		{"gotgt:vol1", "want gotgt:TYPE:PATH", backstore.ClassUnsupported},
		{"gotgt:tape:/x", `no back end of type "tape"`, backstore.ClassUnsupported},
		{"gotgt:file:/no/such/file", "no such file", backstore.ClassNotFound},
		{"gotgt:null:x", "less than one block", backstore.ClassUnsupported},
		{small, "less than one block", backstore.ClassUnsupported},
		{good + "?workers=0", "want 1 to 256", backstore.ClassUnsupported},
		{good + "?inflight=5000", "want 1 to 4096", backstore.ClassUnsupported},
		{good + "?discard=maybe", "want on or off", backstore.ClassUnsupported},
		{good + "?size=1G", `no option "size"`, backstore.ClassUnsupported},
	} {
		st, err := openURI(t, c.uri, nil, backstore.Options{})
		if err == nil {
			_ = st.Close(t.Context())
		}
		if err == nil || backstore.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %v with %q", c.uri, err, c.class, c.want)
		}
	}
	if _, err := openURI(t, good, nil, backstore.Options{TakeOver: true}); backstore.ClassOf(err) != backstore.ClassUnsupported {
		t.Errorf("taking over: %v", err)
	}
	if _, err := scsi.NewBackingStore("file"); err != nil {
		t.Errorf("gotgt's file store is not registered: %v", err)
	}
}

// Syncs that were under way together when one of them failed have all failed: what is below tells it only once. So has the one at the end.
func TestSyncsTogether(t *testing.T) {
	b := &lossy{began: make(chan struct{}, 2), may: make(chan struct{})}
	b.memory.b = make([]byte, 1<<20)
	st, err := NewRemote(b, 1<<20, Config{Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(completer, 2)
	for range 2 {
		if out := st.Submit(&backstore.Request{Op: backstore.Flush, C: ended}); out != backstore.Pending {
			t.Fatalf("outcome %d", out)
		}
	}
	for range 2 {
		<-b.began
	}
	close(b.may)
	for range 2 {
		if r := <-ended; backstore.ClassOf(r.Err) != backstore.ClassMedium || r.Err == nil {
			t.Errorf("a flush beside one that failed, or that one: %v", r.Err)
		}
	}
	if err := st.Close(t.Context()); backstore.ClassOf(err) != backstore.ClassMedium || err == nil {
		t.Errorf("closing what has failed: %v", err)
	}
}

// A lossy back end tells the second of two syncs, before it tells the first that it failed, that all is well.
type lossy struct {
	memory
	began chan struct{}
	may   chan struct{} // closed: syncs end
	n     atomic.Int32
}

func (b *lossy) Sync() (int, error) {
	select {
	case b.began <- struct{}{}:
	default:
	}
	<-b.may
	if b.n.Add(1) == 1 {
		runtime.Gosched()
		return 0, errors.New("no power")
	}
	return 0, nil
}

// A volume that was closed while its back end was at a write is not opened anew before that has returned.
func TestOpenAfterOrphan(t *testing.T) {
	m := &memory{b: make([]byte, 1<<20), held: make(chan struct{})}
	reg := backstore.NewRegistry(Driver(map[string]Remote{"vol1": {Store: m, Size: 1 << 20}}))
	u, err := backstore.ParseURI("gotgt:vol1")
	if err != nil {
		t.Fatal(err)
	}
	st, err := reg.Open(t.Context(), u, backstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(completer, 1)
	st.Submit(&backstore.Request{Op: backstore.Write, Len: 512, Buf: make([]byte, 512), C: ended})
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := st.Close(over); backstore.ClassOf(err) != backstore.ClassBusy {
		t.Errorf("Close: %v", err)
	}
	if _, err := reg.Open(t.Context(), u, backstore.Options{}); err == nil || backstore.ClassOf(err) != backstore.ClassBusy {
		t.Errorf("opened with a write of before under way: %v", err)
	}
	close(m.held)
	<-ended
	st.(*Store).workers.Wait()
	if st, err = reg.Open(t.Context(), u, backstore.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
