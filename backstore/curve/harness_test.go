package curve

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
	"github.com/lunar-iscsi/lunar/test/nebd"
)

const patience = 30 * time.Second

// A bench is a server and what it needs, in a folder of the test's own.
type bench struct {
	t    testing.TB
	dir  string
	pool *nebd.Pool
	cfg  nebd.Config
	srv  *nebd.Server
	p    *process // the driver's, as of one lunard

	mu    sync.Mutex
	warns []string
	died  []string
	n     int
}

// newBench starts a server, which edit may configure. That it dies of a request fails the test.
func newBench(t testing.TB, edit func(*nebd.Config)) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), p: &process{}}
	var err error
	if b.pool, err = nebd.NewPool(filepath.Join(b.dir, "pool")); err != nil {
		t.Fatal(err)
	}
	b.cfg = nebd.Config{Pool: b.pool, Socket: filepath.Join(b.dir, "s"), Meta: filepath.Join(b.dir, "meta"), Segment: 1 << 20, Died: func(why string) {
		b.mu.Lock()
		b.died = append(b.died, why)
		b.mu.Unlock()
	}}
	if edit != nil {
		edit(&b.cfg)
	}
	b.start()
	t.Cleanup(func() {
		b.srv.Kill()
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, why := range b.died {
			t.Errorf("nebd-server died: %s", why)
		}
		if t.Failed() {
			t.Logf("what the driver said:\n%s", strings.Join(b.warns, "\n"))
		}
	})
	return b
}

func (b *bench) start() {
	b.t.Helper()
	var err error
	if b.srv, err = nebd.Start(b.cfg); err != nil {
		b.t.Fatal(err)
	}
}

// volume makes a volume and returns what opens it.
func (b *bench) volume(size int64) *config {
	b.t.Helper()
	b.n++
	path := fmt.Sprintf("/dir/vol%d", b.n)
	if err := b.pool.Create(path, nebd.Volume{Owner: "user", Size: size}); err != nil {
		b.t.Fatal(err)
	}
	return b.config("cbd:pool/" + path + "_user_")
}

// config reads a URI, with the bench's socket and locks, as Open does. Time is shorter.
func (b *bench) config(uri string) *config {
	b.t.Helper()
	sep := "?"
	if strings.Contains(uri, "?") {
		sep = "&"
	}
	u, err := backstore.ParseURI(uri + sep + "socket=" + b.cfg.Socket + "&lockdir=" + b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	c, err := parse(u, backstore.Options{})
	if err != nil {
		b.t.Fatal(err)
	}
	c.heartbeat = 20 * time.Millisecond
	c.patience = 0
	return c
}

func (b *bench) warn(text string) {
	b.mu.Lock()
	b.warns = append(b.warns, text)
	b.mu.Unlock()
}

func (b *bench) open(c *config) *Store {
	b.t.Helper()
	s, err := b.tryOpen(b.p, c)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *bench) tryOpen(p *process, c *config) (*Store, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return p.open(ctx, c, b.warn)
}

// waitFor waits until something is so.
func (b *bench) waitFor(what string, is func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); !is(); {
		if time.Now().After(deadline) {
			b.t.Fatalf("never came: %s", what)
		}
		_ = pause(context.Background(), time.Millisecond)
	}
}

// data returns n bytes that depend on seed.
func data(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i*7) + byte(i>>8)
	}
	return b
}

func read(off, n int64) *backstore.Request {
	return &backstore.Request{Op: backstore.Read, Off: off, Len: n, Buf: make([]byte, n)}
}

func write(off int64, b []byte) *backstore.Request {
	return &backstore.Request{Op: backstore.Write, Off: off, Len: int64(len(b)), Buf: b}
}

// everyWay runs a test with the store attached to a loop, and without.
func everyWay(t *testing.T, edit func(*nebd.Config), f func(t *testing.T, b *bench, attach bool)) {
	t.Helper()
	for _, attach := range []bool{true, false} {
		t.Run(fmt.Sprintf("attached %v", attach), func(t *testing.T) {
			backstoretest.CheckLeaks(t)
			f(t, newBench(t, edit), attach)
		})
	}
}

// closeBusy closes a store that has requests which are not answered.
func (b *bench) closeBusy(s *Store) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Close(ctx); backstore.ClassOf(err) != backstore.ClassBusy || err == nil {
		b.t.Fatalf("Close with requests that are not answered: %v", err)
	}
}

// remarked waits until the driver has said something.
func (b *bench) remarked(text string) {
	b.t.Helper()
	b.waitFor("a remark with "+text, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return strings.Contains(strings.Join(b.warns, "\n"), text)
	})
}

// remarkedOn is remarked where the loop has to be turned for that.
func (b *bench) remarkedOn(h *backstoretest.Harness, text string) {
	b.t.Helper()
	b.waitFor("a remark with "+text, func() bool {
		h.Turn(time.Millisecond)
		b.mu.Lock()
		defer b.mu.Unlock()
		return strings.Contains(strings.Join(b.warns, "\n"), text)
	})
}
