package tgtipc

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

func (c *call) iscsiState() string { return pick(c.face.isStopped(), "stopped", "ready") }

// lld shows, starts and stops drivers. A stopped iscsi has no portals: they are closed, and kept here until it is started, with what they
// were bound to. Of a daemon that ends in between they are not saved.
func (c *call) lld(ctx context.Context, name string) (string, error) {
	switch c.Op {
	case OpShow:
		return c.showDrivers(), nil
	case OpStart:
		if name == iser {
			return "", refuse(ErrUnknown, "lunar has no iSER")
		}
		return "", c.startDriver(ctx)
	case OpStop:
		if name == iser {
			return "", nil
		}
		return "", c.stopDriver(ctx)
	}
	return "", c.notThere(ErrInvalidRequest)
}

func (c *call) showDrivers() string {
	var b strings.Builder
	fmt.Fprintf(&b, "LLDs:\n    %s: %s\n", iscsi, c.iscsiState())
	for _, t := range c.face.ordered(c.svc.Targets(false)) {
		fmt.Fprintf(&b, "        Target %d: %s\n", t.Spec.TID, t.Spec.Name)
	}
	fmt.Fprintf(&b, "    %s: error\n", iser)
	return b.String()
}

func (c *call) stopDriver(ctx context.Context) error {
	f := c.face
	f.driver.Lock()
	defer f.driver.Unlock()
	if f.isStopped() {
		return nil
	}
	if n := len(c.svc.Targets(false)); n > 0 {
		return refuse(ErrDriverActive, "%d targets are there; delete them first", n)
	}
	portals := c.svc.Portals()
	for i, p := range portals {
		if err := c.svc.RemovePortal(ctx, p.Bound); err != nil {
			for _, p := range portals[:i] {
				if rerr := c.reopen(ctx, p.Spec, p.Bound); rerr != nil {
					c.log.Warn("management: a portal could not be opened again", "portal", p.Bound, "error", rerr)
				}
			}
			return err
		}
	}
	f.setStopped(true)
	f.stopped = portals
	return nil
}

func (c *call) startDriver(ctx context.Context) error {
	f := c.face
	f.driver.Lock()
	defer f.driver.Unlock()
	if !f.isStopped() {
		return nil
	}
	for i, p := range f.stopped {
		if err := c.reopen(ctx, p.Spec, p.Bound); err != nil {
			for _, p := range f.stopped[:i] {
				if rerr := c.svc.RemovePortal(context.WithoutCancel(ctx), p.Bound); rerr != nil {
					c.log.Warn("management: a portal that was just opened could not be closed again", "portal", p.Bound, "error", rerr)
				}
			}
			return &numbered{ErrUnknown, err}
		}
	}
	f.setStopped(false)
	f.stopped = nil
	return nil
}

// reopen makes a portal again, where it was.
func (c *call) reopen(ctx context.Context, p spec.Portal, bound netip.AddrPort) error {
	p.Address = bound.String()
	_, err := c.svc.AddPortal(context.WithoutCancel(ctx), p)
	return err
}

func (f *face) setStopped(v bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop = v
}
