package ceph

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/deps"
)

const (
	readyTimeout = 90 * time.Second // from nothing to a clean pool; 2 to 6 s on a quiet machine
	readyPoll    = 50 * time.Millisecond
)

// Pool is the pool that is there from the start.
const Pool = "rbd"

var buildMonitor = sync.OnceValues(func() (daemon.Program, error) { return daemon.BuildRBD("test/ceph/monitor") })

// A Cluster is a running cluster. Its methods may be called from any goroutine; those that stop and start daemons one at a time.
type Cluster struct {
	cfg     Config
	dir     string
	fsid    string
	addrs   []string // of the monitors
	monitor string   // the program that carries out commands
	tools   tools

	commands commander

	mu   sync.Mutex
	mons []*process // guarded by mu
	osds []*process // guarded by mu
}

// tools are Ceph's programs.
type tools struct{ mon, osd, monmaptool, rbd *deps.Tool }

func find() (t tools, err error) {
	for name, tool := range map[string]**deps.Tool{"ceph-mon": &t.mon, "ceph-osd": &t.osd, "monmaptool": &t.monmaptool, "rbd": &t.rbd} {
		found, ok := deps.Lookup(name)
		if !ok {
			return t, fmt.Errorf("%s not found: scripts/test-deps ceph fetches it", name)
		}
		*tool = found
	}
	return t, nil
}

// Start starts a cluster that lives until the test ends, and returns when its pool is clean. The test is skipped where Ceph or a C compiler is not there.
func Start(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	Need(t)
	began := time.Now()
	c, err := Launch(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the cluster's log:\n%s", c.Log())
		}
		c.Close()
	})
	t.Logf("a cluster of %d OSDs after %v", c.cfg.OSDs, time.Since(began).Round(100*time.Millisecond))
	return c
}

// Need skips the test where Start would: for those who Launch.
func Need(t testing.TB) {
	t.Helper()
	if _, err := find(); err != nil {
		deps.Skip(t, err.Error())
	}
	if err := daemon.CheckRBD(); err != nil {
		deps.Skip(t, err.Error())
	}
}

// Launch is Start for programs: the caller ends the cluster by Close.
func Launch(cfg Config) (*Cluster, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	t, err := find()
	if err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, dir: cfg.Dir, fsid: uuid(), tools: t}
	c.commands.c = c
	p, err := buildMonitor()
	if err != nil {
		return nil, err
	}
	c.monitor = p.Path
	if c.dir == "" { // a test's own folder may be too long for Ceph's sockets, and is on no faster disk
		if c.dir, err = os.MkdirTemp("", "lunar-ceph"); err != nil {
			return nil, err
		}
	}
	if err := c.create(); err != nil {
		log := c.Log()
		c.Close()
		return nil, fmt.Errorf("no cluster: %w\n%s", err, log)
	}
	return c, nil
}

// create makes a cluster from nothing. Without cephx an OSD's store can be made before there is a monitor: that takes longest.
func (c *Cluster) create() error {
	for _, d := range []string{"run", "log", "crash"} {
		if err := os.Mkdir(filepath.Join(c.dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := c.configure(); err != nil {
		return err
	}
	uuids := make([]string, c.cfg.OSDs)
	for i := range uuids {
		uuids[i] = uuid()
	}
	made := make(chan error, 1)
	go func() {
		made <- all(c.cfg.OSDs, func(i int) error {
			if err := os.Mkdir(filepath.Join(c.dir, "osd."+strconv.Itoa(i)), 0o755); err != nil {
				return err
			}
			_, err := c.run(c.tools.osd, "-c", c.Conf(), "-i", strconv.Itoa(i), "--mkfs", "--osd-uuid", uuids[i])
			return err
		})
	}()
	err := c.createMons(uuids)
	if err = errors.Join(err, <-made); err != nil { // both: nothing may go on in the folder
		return err
	}
	c.mu.Lock()
	c.osds = make([]*process, c.cfg.OSDs)
	c.mu.Unlock()
	if err := all(c.cfg.OSDs, c.StartOSD); err != nil {
		return err
	}
	if err := c.waitUp(c.cfg.OSDs, readyTimeout); err != nil {
		return err
	}
	if err := c.CreatePool(Pool); err != nil {
		return err
	}
	return c.WaitClean(readyTimeout)
}

// configure writes ceph.conf, with free ports for the monitors.
func (c *Cluster) configure() error {
	var held []net.Listener // all at once, so that they differ
	for range c.cfg.Mons {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		held = append(held, l)
		c.addrs = append(c.addrs, l.Addr().String())
	}
	for _, l := range held {
		_ = l.Close() // nothing was sent
	}
	text, err := c.cfg.write(c.dir, c.fsid, filepath.Dir(c.tools.osd.Lib("rados-classes")), c.addrs)
	if err != nil {
		return err
	}
	return os.WriteFile(c.Conf(), []byte(text), 0o644)
}

// createMons makes and starts the monitors, and tells them of the OSDs.
func (c *Cluster) createMons(uuids []string) error {
	monmap := filepath.Join(c.dir, "monmap")
	args := []string{"--create", "--fsid", c.fsid, "--set-min-mon-release", "pacific"}
	for i, addr := range c.addrs {
		args = append(args, "--addv", monName(i), "[v2:"+addr+"]")
	}
	if _, err := c.run(c.tools.monmaptool, append(args, monmap)...); err != nil {
		return err
	}
	c.mu.Lock()
	c.mons = make([]*process, c.cfg.Mons)
	c.mu.Unlock()
	err := all(c.cfg.Mons, func(i int) error {
		if err := os.Mkdir(filepath.Join(c.dir, "mon."+monName(i)), 0o755); err != nil {
			return err
		}
		if _, err := c.run(c.tools.mon, "-c", c.Conf(), "-i", monName(i), "--mkfs", "--monmap", monmap); err != nil {
			return err
		}
		return c.startMon(i)
	})
	if err != nil {
		return err
	}
	for i, u := range uuids {
		if _, err := c.Mon("osd new", "uuid", u, "id", i); err != nil {
			return err
		}
	}
	return nil
}

// Close kills every daemon and removes the folder.
func (c *Cluster) Close() {
	c.commands.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range append(append([]*process(nil), c.osds...), c.mons...) {
		if p != nil {
			p.kill()
		}
	}
	_ = os.RemoveAll(c.dir) // below the folder for temporary files; nothing depends on it
}

// Conf is the path of its ceph.conf.
func (c *Cluster) Conf() string { return filepath.Join(c.dir, "ceph.conf") }

// Env is what a program that uses the cluster needs: the libraries, and the configuration by CEPH_CONF.
func (c *Cluster) Env() []string {
	return append(c.tools.rbd.Env(), "CEPH_CONF="+c.Conf(), "CEPH_ARGS=")
}

// RBD runs the command rbd.
func (c *Cluster) RBD(args ...string) (string, error) {
	return c.run(c.tools.rbd, append([]string{"-c", c.Conf()}, args...)...)
}

// CreatePool creates a pool for images.
func (c *Cluster) CreatePool(name string) error {
	if _, err := c.Mon("osd pool create", "pool", name, "pg_num", c.cfg.PGs, "pgp_num", c.cfg.PGs); err != nil {
		return err
	}
	_, err := c.Mon("osd pool application enable", "pool", name, "app", "rbd")
	return err
}

// Log is the end of what the daemons have written.
func (c *Cluster) Log() string {
	const most = 4 << 10
	var b strings.Builder
	files, _ := filepath.Glob(filepath.Join(c.dir, "log", "*")) // the only error is a bad pattern
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil || len(text) == 0 {
			continue
		}
		fmt.Fprintf(&b, "%s: %s\n", filepath.Base(f), text[max(0, len(text)-most):])
	}
	return b.String()
}

// until polls done until it is true.
func until(limit time.Duration, what string, done func() (bool, error)) error {
	deadline := time.After(limit)
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	for {
		ok, err := done()
		if ok {
			return nil
		}
		select {
		case <-deadline:
			return errors.Join(fmt.Errorf("ceph: not within %v: %s", limit, what), err)
		case <-poll.C:
		}
	}
}

func (c *Cluster) waitUp(n int, limit time.Duration) error {
	return until(limit, fmt.Sprintf("%d OSDs up", n), func() (bool, error) {
		var s struct {
			Up int `json:"num_up_osds"`
		}
		err := c.ask(&s, "osd stat")
		return err == nil && s.Up == n, err
	})
}

// WaitDown waits until the monitors have taken n OSDs to be down.
func (c *Cluster) WaitDown(n int, limit time.Duration) error { return c.waitUp(c.cfg.OSDs-n, limit) }

// WaitClean waits until all OSDs are up and every placement group of every pool is whole.
func (c *Cluster) WaitClean(limit time.Duration) error {
	began := time.Now()
	if err := c.waitUp(c.cfg.OSDs, limit); err != nil {
		return err
	}
	return until(limit-time.Since(began), "all placement groups active+clean", c.clean)
}

func (c *Cluster) clean() (bool, error) {
	var dump struct {
		Pools []struct {
			ID  int `json:"pool"`
			PGs int `json:"pg_num"`
		}
	}
	if err := c.ask(&dump, "osd dump"); err != nil {
		return false, err
	}
	for _, p := range dump.Pools {
		for i := range p.PGs {
			pg := fmt.Sprintf("%d.%x", p.ID, i)
			out, err := c.commands.call(pg, map[string]any{"prefix": "query", "pgid": pg, "format": "json"})
			if err != nil {
				return false, err
			}
			var q struct{ State string }
			if err := json.Unmarshal([]byte(out), &q); err != nil || q.State != "active+clean" {
				return false, fmt.Errorf("placement group %s is %q: %w", pg, q.State, errors.Join(err, errNotClean))
			}
		}
	}
	return true, nil
}

var errNotClean = errors.New("not clean")

// uuid is a random one (RFC 9562, version 4).
func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
