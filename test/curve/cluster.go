package curve

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
	"github.com/lunar-iscsi/lunar/test/nebd"
)

// Config says what a cluster is made of.
type Config struct {
	Pool     *nebd.Pool
	Password string // root's ("root_password")

	// Freeze keeps a volume as it is until the returned function is called, with every write that was answered before in it; nil: nothing writes while a snapshot is
	// taken.
	Freeze func(volume string) (thaw func())
	// Step is called ten times in each task ("snapshot", "delete", "clone", "recover", "flatten"), with how far it is, in percent. It may block; an error makes the
	// task fail. It may be nil.
	Step func(task, uuid string, percent int) error
}

// A Cluster is both servers.
type Cluster struct {
	MDS, Snap string // addresses

	cfg   Config
	mds   *brpc.Server
	mdsL  net.Listener
	snap  *http.Server
	tasks sync.WaitGroup

	mu     sync.Mutex // guards what follows, and the pool's folder against the other server
	lastID uint64
	snaps  map[string]*snapshot
	jobs   map[string]*job
	gone   bool
}

// Start starts both on free ports of loopback.
func Start(cfg Config) (*Cluster, error) {
	if cfg.Password == "" {
		cfg.Password = "root_password"
	}
	if cfg.Step == nil {
		cfg.Step = func(string, string, int) error { return nil }
	}
	if cfg.Freeze == nil {
		cfg.Freeze = func(string) func() { return func() {} }
	}
	c := &Cluster{cfg: cfg, lastID: uint64(time.Now().UnixMilli()), snaps: map[string]*snapshot{}, jobs: map[string]*job{}}
	if err := os.MkdirAll(filepath.Join(cfg.Pool.Dir(), objects), 0o755); err != nil {
		return nil, err
	}
	var err error
	if c.mdsL, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, c.mdsL.Close())
	}
	c.MDS, c.Snap = c.mdsL.Addr().String(), l.Addr().String()
	c.mds = &brpc.Server{Handle: c.handle}
	mux := http.NewServeMux()
	mux.HandleFunc("/SnapshotCloneService", c.serve)
	c.snap = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	c.tasks.Add(2)
	go func() {
		defer c.tasks.Done()
		_ = c.mds.Serve(c.mdsL) // ends with Close
	}()
	go func() {
		defer c.tasks.Done()
		_ = c.snap.Serve(l) // ends with Close
	}()
	return c, nil
}

// Close ends both, and waits for their tasks.
func (c *Cluster) Close() {
	c.mu.Lock()
	c.gone = true
	c.mu.Unlock()
	_ = c.mdsL.Close()
	c.mds.CloseConns()
	_ = c.snap.Close()
	c.tasks.Wait()
}
