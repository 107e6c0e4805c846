package adminchaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/journal"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/faulty"
	"github.com/lunar-iscsi/lunar/backstore/file"
	"github.com/lunar-iscsi/lunar/backstore/mem"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/target"
	"github.com/lunar-iscsi/lunar/test/history"
)

const (
	targets        = 3
	administrators = 4
	initiators     = 6
	shared         = 2                       // files that any target may have
	files          = shared + targets*maxLUN // and one for each of their numbers; all outlive their LUNs
	maxLUN         = 4

	blockSize = 512
	blocks    = 256     // of each disk, that initiators use
	minSize   = 1 << 19 // no disk is made smaller: what initiators use is never cut off
	maxSize   = 1 << 21

	patience = 30 * time.Second // no call, command or login takes longer, on a busy machine
)

// slow has commands under way whatever is done to a disk.
const slow = "write delay=2ms every=7; read delay=1ms every=9; any pending every=3"

// A world is what all lives of the daemon have in common.
type world struct {
	t    *testing.T
	seed uint64
	dir  string

	opened, closed atomic.Int64 // stores

	mu        sync.Mutex
	histories map[string]*history.History // by serial number
}

// A life is one manager, from what was saved to its end.
type life struct {
	*world
	m       *admin.Manager
	journal *journal.Journal
	number  int
	model   model
	portal  string // of the portal that stays
	// What has happened.
	done, refused [kinds]atomic.Int64
	logins, ios   atomic.Int64
	turned        atomic.Int64 // unit attentions
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, seed: seed, dir: t.TempDir(), histories: map[string]*history.History{}}
	for i := range files {
		if err := os.WriteFile(w.file(i), make([]byte, minSize), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) file(i int) string { return filepath.Join(w.dir, fmt.Sprintf("disk%d.img", i)) }

func (w *world) rand(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(w.seed, stream)) }

// history is that of the volume with a serial number; one that nobody has seen yet is all zeroes.
func (w *world) history(serial string) *history.History {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.histories[serial]
	if h == nil {
		h = history.New(history.Config{Seed: w.seed + uint64(len(w.histories)), Blocks: blocks, BlockSize: blockSize})
		w.histories[serial] = h
	}
	return h
}

// A counted store tells when it is closed.
type counted struct {
	*faulty.Store
	w    *world
	once sync.Once
}

func (c *counted) Close(ctx context.Context) error {
	err := c.Store.Close(ctx)
	if err == nil {
		c.once.Do(func() { c.w.closed.Add(1) })
	}
	return err
}

// driver is d, whose stores are slow now and then, and counted.
func (w *world) driver(d backstore.Driver) backstore.Driver {
	open := d.Open
	d.Open = func(ctx context.Context, u *backstore.URI, o backstore.Options) (backstore.Store, error) {
		st, err := open(ctx, u, o)
		if err != nil {
			return nil, err
		}
		f, err := faulty.New(st, slow)
		if err != nil {
			return nil, errors.Join(err, st.Close(ctx))
		}
		w.opened.Add(1)
		return &counted{Store: f, w: w}, nil
	}
	return d
}

// begin starts the daemon on what state folder from has, which is copied: that is what another process would find.
func (w *world) begin(number int, from string) *life {
	t := w.t
	t.Helper()
	dir := filepath.Join(w.dir, fmt.Sprintf("state%d", number))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if from != "" {
		b, err := os.ReadFile(filepath.Join(from, journal.Name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, journal.Name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := journal.Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	l := &life{world: w, number: number}
	if l.journal, err = journal.Open(fs, journal.Options{Log: func(line string, kv ...any) { t.Log(append([]any{line}, kv...)...) }}); err != nil {
		t.Fatal(err)
	}
	l.m, err = admin.New(admin.Config{
		Target:   target.Config{LoginFailDelay: -1, Limit: session.Limits{LogoutWait: int64(200 * time.Millisecond)}},
		Registry: backstore.NewRegistry(w.driver(mem.Driver()), w.driver(file.Driver())), State: l.journal, Log: alarm{t}, RetryVolumes: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := l.m.Load(ctx); err != nil {
		t.Fatal(err)
	}
	if err := l.m.LoadPortals(); err != nil {
		t.Fatal(err)
	}
	return l
}

// serve opens the portal that stays and lets initiators in.
func (l *life) serve() {
	l.t.Helper()
	list, err := l.m.PassingPortals(context.Background(), []spec.Portal{{Address: "127.0.0.1:0"}}, false)
	if err != nil {
		l.t.Fatal(err)
	}
	l.portal = list[0].Bound.String()
	l.m.Serve()
}

// end closes the daemon, which nobody uses any more, and looks for what is left of it.
func (l *life) end(before census) {
	t := l.t
	t.Helper()
	if err := errors.Join(l.m.Close(), l.journal.Close()); err != nil {
		t.Errorf("closing: %v", err)
	}
	if o, c := l.opened.Load(), l.closed.Load(); o != c {
		t.Errorf("%d stores were opened, %d closed", o, c)
	}
	before.left(t)
	// Memory is new in the next life, and whatever has not ended by now never takes effect.
	l.mu.Lock()
	defer l.mu.Unlock()
	for serial, h := range l.histories {
		if err := h.SettleAll(); err != nil {
			t.Error(err)
		}
		if !strings.HasPrefix(serial, fileSerial) {
			delete(l.histories, serial)
		}
	}
}

// verify reads the files themselves.
func (w *world) verify() {
	w.t.Helper()
	for i := range files {
		data, err := os.ReadFile(w.file(i))
		if err != nil {
			w.t.Fatal(err)
		}
		h := w.history(fmt.Sprint(fileSerial, i))
		if err := h.Read(1<<20, 0, blocks, "the file at the end").Done(data[:blocks*blockSize]); err != nil {
			w.t.Errorf("file %d: %v", i, err)
		}
	}
}

// fileSerial begins the serial numbers of disks on files.
const fileSerial = "file"

// An alarm is a log in which nothing may appear that says that something of lunar's own went wrong.
type alarm struct{ t *testing.T }

func (alarm) Debug(string, ...any) {}
func (alarm) Info(string, ...any)  {}
func (a alarm) Warn(msg string, kv ...any) {
	for _, bad := range []string{"fault", "could not", "cannot", "in order", "panic"} {
		if strings.Contains(msg, bad) {
			a.t.Errorf("in the log: %s %v", msg, kv)
			return
		}
	}
}

// A census counts what could leak.
type census struct{ goroutines, files int }

func resources(t *testing.T) census {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return census{runtime.NumGoroutine(), len(fds)}
}

// left fails t unless what was counted before is all that is there, soon.
func (c census) left(t *testing.T) {
	t.Helper()
	var now census
	if !soon(func() bool { now = resources(t); return now.goroutines <= c.goroutines && now.files <= c.files }) {
		buf := make([]byte, 1<<18)
		t.Errorf("left over: %+v, before %+v\n%s", now, c, buf[:runtime.Stack(buf, true)])
	}
}

// soon reports whether cond comes to hold.
func soon(cond func() bool) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); runtime.Gosched() {
		if cond() {
			return true
		}
	}
	return false
}
