//go:build rbd && cgo

package rbd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ceph/go-ceph/rbd"

	"github.com/lunar-iscsi/lunar/backstore"
)

const (
	// glance is how long somebody may have an image open who does not hold its lock, before it counts as in use: the rbd command
	// and our own work on volumes do for some milliseconds.
	glance   = time.Second
	pauseMin = 50 * time.Millisecond // between looks
	pauseMax = time.Second
	lockName = "rbd_lock" // librbd's exclusive lock, on the image's header
)

// A holder is somebody who has an image open for writing.
type holder struct {
	client string // "client.4123"
	addr   string // "10.0.0.1:0/305419896"
	cookie string // of the lock that it holds
	locks  bool
	alive  bool // it watches the image: it is there, or was 30 s ago, and nothing else is known
}

func (h holder) String() string {
	var t string
	switch {
	case h.client == "":
		t = h.addr
	case h.addr == "":
		t = h.client
	default:
		t = h.client + " at " + h.addr
	}
	if h.locks {
		t += " (holds its lock)"
	}
	return t
}

// holders are those who watch an image, or hold its lock, but for the client whose address is given.
func (cl *cluster) holders(c *config, but string) (id string, hs []holder, err error) {
	img, err := rbd.OpenImageReadOnly(cl.io, c.image, rbd.NoSnapshot)
	if err != nil {
		if errors.Is(err, rbd.ErrNotFound) {
			return "", nil, noImage(c.spec)
		}
		return "", nil, failed("open", "image "+c.spec.String(), err)
	}
	defer func() { _ = img.Close() }() // read-only: nothing can be lost
	if id, err = img.GetId(); err != nil {
		return "", nil, failed("open", "asking for the image's id", err)
	}
	watchers, err := img.ListWatchers()
	if err != nil {
		return "", nil, failed("open", "asking who has the image open", err)
	}
	for _, w := range watchers {
		hs = append(hs, holder{client: "client." + strconv.FormatInt(w.Id, 10), addr: w.Addr, alive: true})
	}
	_, lockers, err := img.ListLockers()
	if err != nil && !errors.Is(err, rbd.ErrNotFound) {
		return "", nil, failed("open", "asking who has locked the image", err)
	}
	for _, l := range lockers {
		at := slices.IndexFunc(hs, func(h holder) bool { return h.client == l.Client })
		if at < 0 {
			at = len(hs)
			hs = append(hs, holder{client: l.Client, addr: l.Addr})
		}
		hs[at].locks, hs[at].cookie = true, l.Cookie
	}
	for i := range hs {
		hs[i].alive = hs[i].alive && !gone(img, hs[i])
	}
	hs = slices.DeleteFunc(hs, func(h holder) bool { return but != "" && bare(h.addr) == bare(but) })
	return id, hs, nil
}

// bare is an address without the protocol's version, which differs by who tells it.
func bare(addr string) string {
	addr = strings.Trim(addr, "[]")
	for _, p := range []string{"v1:", "v2:", "any:"} {
		addr = strings.TrimPrefix(addr, p)
	}
	return addr
}

// alone waits until nobody else has the image open for writing, or says who has. One who holds the lock and is known to be gone is shut out: it
// may be frozen.
func (cl *cluster) alone(ctx context.Context, c *config) error {
	begun, pause := time.Now(), pauseMin
	for {
		id, hs, err := cl.holders(c, "")
		if err != nil {
			return err
		}
		var dead []holder
		hs = slices.DeleteFunc(hs, func(h holder) bool {
			if !h.alive {
				dead = append(dead, h)
			}
			return !h.alive
		})
		if err := cl.expel(id, dead); err != nil {
			return err
		}
		if len(hs) == 0 {
			return nil
		}
		locked := slices.ContainsFunc(hs, func(h holder) bool { return h.locks })
		wait := c.lock == lockWait || !locked && time.Since(begun) < glance
		if wait {
			select {
			case <-time.After(pause):
				pause = min(2*pause, pauseMax)
				continue
			case <-ctx.Done():
			}
		}
		var names []string
		for _, h := range hs {
			names = append(names, h.String())
		}
		return &backstore.Error{Class: backstore.ClassBusy, Op: "open", Cause: fmt.Errorf("image %s is open elsewhere: %s; close it there, or take it over", c.spec, strings.Join(names, ", "))}
	}
}

// shutOut puts all who have an image open, or hold its lock, on the blocklist and breaks the lock. On return nothing that they send is applied to what
// this client looks at: it knows the new map, and so does every OSD by the time that it answers this client.
func (cl *cluster) shutOut(ctx context.Context, c *config, but string) error {
	id, hs, err := cl.holders(c, but)
	if err != nil {
		return err
	}
	if err := cl.expel(id, hs); err != nil {
		return err
	}
	return ctx.Err()
}

// expel is shutOut for those that are given, of the image with this id.
func (cl *cluster) expel(id string, hs []holder) error {
	for _, h := range hs {
		if h.addr == "" {
			return &backstore.Error{Class: backstore.ClassInternal, Op: "fence", Cause: fmt.Errorf("the cluster does not tell the address of %s", h)}
		}
		if err := cl.block(h.addr); err != nil {
			return err
		}
	}
	if err := cl.conn.WaitForLatestOSDMap(); err != nil {
		return failed("fence", "waiting for the map that shuts them out", err)
	}
	for _, h := range hs {
		if !h.locks {
			continue
		}
		if r, err := cl.io.BreakLock("rbd_header."+id, lockName, h.client, h.cookie); err != nil {
			return failed("fence", "breaking the lock of "+h.String(), err)
		} else if r < 0 && syscall.Errno(-r) != syscall.ENOENT {
			return failed("fence", "breaking the lock of "+h.String(), syscall.Errno(-r))
		}
	}
	return nil
}

// block puts an address on the blocklist.
func (cl *cluster) block(addr string) error {
	expire := strconv.FormatFloat(blockFor.Seconds(), 'f', 1, 64) // with a point, or it is none of what the monitor calls a number here
	var last error
	for _, word := range []string{"block", "black"} { // before Ceph 16 it had another name
		cmd, err := json.Marshal(map[string]any{"prefix": "osd " + word + "list", word + "listop": "add", "addr": bare(addr), "expire": json.RawMessage(expire)})
		if err != nil {
			return &backstore.Error{Class: backstore.ClassInternal, Op: "fence", Cause: err}
		}
		_, said, err := cl.conn.MonCommand(cmd)
		if err == nil {
			return nil
		}
		last = failed("fence", "putting "+addr+" on the blocklist ("+said+")", err)
		if n, _ := errnoOf(err); n != syscall.EINVAL {
			return last
		}
	}
	return last
}

// Fence shuts out all others who have the image open for writing. They get errors, and whatever they send is not applied.
func (s *Store) Fence(ctx context.Context) error {
	if s.cfg.readOnly {
		return &backstore.Error{Class: backstore.ClassReadOnly, Op: "fence"}
	}
	if err := s.hold("fence"); err != nil {
		return err
	}
	own, err := s.cl.conn.GetAddrs()
	if err != nil {
		s.control.Done()
		return failed("fence", "asking for our own address", err)
	}
	_, err = within(ctx, "fence", func() (struct{}, error) {
		defer s.control.Done()
		return struct{}{}, s.cl.shutOut(ctx, s.cfg, own)
	}, func(struct{}) {})
	return err
}
