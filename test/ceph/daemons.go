package ceph

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"github.com/lunar-iscsi/lunar/test/deps"
)

// osd is the i-th OSD that was started, running or not.
func (c *Cluster) osd(i int) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i < 0 || i >= len(c.osds) || c.osds[i] == nil {
		return nil, fmt.Errorf("no OSD %d was started", i)
	}
	return c.osds[i], nil
}

func (c *Cluster) startMon(i int) error {
	p, err := c.launch(c.tools.mon, "mon", monName(i))
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.mons[i] = p
	c.mu.Unlock()
	// A client that comes too early waits for seconds before it tries again.
	return until(readyTimeout, "mon."+monName(i)+" listens", func() (bool, error) {
		if !p.running() {
			return true, nil // the commands that follow say so
		}
		conn, err := net.Dial("tcp", c.addrs[i])
		if err != nil {
			return false, err
		}
		return true, conn.Close()
	})
}

// StartOSD starts an OSD that does not run.
func (c *Cluster) StartOSD(i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i < 0 || i >= len(c.osds) {
		return fmt.Errorf("no OSD %d", i)
	}
	if p := c.osds[i]; p != nil && p.running() {
		return fmt.Errorf("%s runs", p.name)
	}
	p, err := c.launch(c.tools.osd, "osd", strconv.Itoa(i))
	if err != nil {
		return err
	}
	c.osds[i] = p
	return nil
}

// KillOSD ends an OSD as a crash does.
func (c *Cluster) KillOSD(i int) error {
	p, err := c.osd(i)
	if err != nil {
		return err
	}
	if !p.running() {
		return fmt.Errorf("%s has ended: %v", p.name, p.cmd.ProcessState)
	}
	p.kill()
	return nil
}

// FreezeOSD makes an OSD silent (SIGSTOP) with its connections standing, as a host that hangs does. On return none of its threads runs.
func (c *Cluster) FreezeOSD(i int) error {
	if err := c.signalOSD(i, syscall.SIGSTOP); err != nil {
		return err
	}
	p, err := c.osd(i)
	if err != nil {
		return err
	}
	return deps.WaitStopped(p.cmd.Process.Pid)
}

// ThawOSD lets a frozen OSD go on.
func (c *Cluster) ThawOSD(i int) error { return c.signalOSD(i, syscall.SIGCONT) }

func (c *Cluster) signalOSD(i int, sig syscall.Signal) error {
	p, err := c.osd(i)
	if err != nil {
		return err
	}
	return p.signal(sig)
}

// KillAll ends the whole cluster as a power cut does to its machines; StartAll brings it back.
func (c *Cluster) KillAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range append(append([]*process(nil), c.osds...), c.mons...) {
		p.kill()
	}
}

// StopAll asks every daemon to end.
func (c *Cluster) StopAll() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := all(len(c.osds), func(i int) error { return c.osds[i].stop() })
	return errors.Join(err, all(len(c.mons), func(i int) error { return c.mons[i].stop() }))
}

// StartAll starts a cluster whose daemons have ended, with the data it had on disk, and returns when it is clean.
func (c *Cluster) StartAll() error {
	c.commands.close() // its connection is to monitors that are gone
	if err := all(c.cfg.Mons, c.startMon); err != nil {
		return err
	}
	if err := all(c.cfg.OSDs, c.StartOSD); err != nil {
		return err
	}
	return c.WaitClean(readyTimeout)
}
