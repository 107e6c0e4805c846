package tgtipc

import (
	"context"
	"slices"
	"strings"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

// The words that payloads are searched for.
const (
	addressKey = "initiator-address="
	nameKey    = "initiator-name="
)

func (c *call) target(ctx context.Context) (string, error) {
	switch c.Op {
	case OpNew:
		return "", c.newTarget(ctx)
	case OpDelete:
		return "", c.deleteTarget(ctx)
	case OpShow:
		if c.TID < 0 {
			return showTargets(c.svc.Targets(true)), nil
		}
		t, err := c.find(false)
		if err != nil {
			return "", err
		}
		return showParams(&t.Spec), nil
	case OpStats:
		t, err := c.find(true)
		if err != nil {
			return "", err
		}
		return statHeader + targetStats([]admin.TargetState{t}), nil
	case OpBind, OpUnbind:
		return "", c.bind(ctx)
	case OpUpdate:
		return "", c.updateTarget(ctx)
	}
	return "", c.notThere(ErrInvalidRequest)
}

// newTarget makes a target that nobody may use yet. TID 0 and below are tgtd's only on the wire: tgtadm never sends them.
func (c *call) newTarget(ctx context.Context) error {
	name, found := "", false
	for _, kv := range tokens(c.payload) {
		if v, ok := strings.CutPrefix(kv, "targetname="); ok {
			name, found = v, true
		}
	}
	switch {
	case !found || name == "":
		return refuse(ErrInvalidRequest, "the new target has no name: targetname= is missing")
	case strings.IndexFunc(name, func(r rune) bool { return !nameChar(r) }) >= 0:
		return refuse(ErrInvalidRequest, "target name %q: letters, digits, ':', '.' and '-' may be in it", name)
	case c.TID <= 0:
		return refuse(ErrInvalidRequest, "target ID %d: want 1 or more", c.TID)
	}
	sys := c.svc.System().Spec
	t, err := c.svc.AddTarget(ctx, spec.Target{TID: int(c.TID), Name: name, ExactNames: true, TgtNaming: true, NopInterval: sys.NopInterval, NopCount: sys.NopCount})
	if err != nil {
		return err
	}
	c.face.added(binding{t.TID, t.Name}, c.svc.Targets(false))
	return nil
}

func nameChar(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == ':' || r == '.' || r == '-'
}

func (c *call) deleteTarget(ctx context.Context) error {
	if c.TID <= 0 {
		_, err := c.find(false)
		return err
	}
	return c.svc.RemoveTarget(ctx, c.ref(), c.Force != 0)
}

// bind lets initiators in, or no longer. The words are searched for, and the value is the rest of the text: so "-I ADDR -Q NAME", which is
// sent as one, makes the malformed address "ADDR,initiator-name=NAME" beside the name. tgtd does it, and shows it.
func (c *call) bind(ctx context.Context) error {
	if c.payload == "" {
		return c.bindHost()
	}
	if _, err := c.find(false); err != nil {
		return err
	}
	var rules []spec.Rule
	if _, v, ok := strings.Cut(c.payload, addressKey); ok {
		rules = append(rules, spec.Rule{Address: v})
	}
	if _, v, ok := strings.Cut(c.payload, nameKey); ok {
		rules = append(rules, spec.Rule{Initiator: v})
	}
	if len(rules) == 0 {
		return refuse(ErrInvalidRequest, "neither an initiator's address nor its name is given")
	}
	return c.svc.EditTarget(ctx, c.ref(), func(t *spec.Target) error {
		for _, r := range rules {
			what := r.Address + r.Initiator
			if what == "" {
				return refuse(ErrInvalidRequest, "an empty rule")
			}
			// What other faces add to a rule (no resets, read only) does not make it another one here.
			i := slices.IndexFunc(t.Access, func(o spec.Rule) bool { return o.Address == r.Address && o.Initiator == r.Initiator })
			switch {
			case c.Op == OpBind && i >= 0:
				return refuse(ErrACLExists, "target %s admits %s already", t.Name, what)
			case c.Op == OpBind:
				t.Access = append(t.Access, r)
			case i < 0:
				return refuse(ErrNoACL, "target %s has no rule that admits %s", t.Name, what)
			default:
				t.Access = slices.Delete(t.Access, i, i+1)
			}
		}
		return nil
	})
}

// bindHost keeps the book of ibmvio's hosts, which tgtd keeps for every driver.
func (c *call) bindHost() error {
	there := c.svc.Targets(false)
	f := c.face
	f.mu.Lock()
	defer f.mu.Unlock()
	for host, b := range f.hosts {
		if !has(there, b) {
			delete(f.hosts, host) // the target is gone
		}
	}
	_, bound := f.hosts[c.Host]
	if c.Op == OpUnbind {
		if !bound {
			return refuse(ErrNoBinding, "host %d is bound to no target", c.Host)
		}
		delete(f.hosts, c.Host)
		return nil
	}
	i := slices.IndexFunc(there, func(t admin.TargetState) bool { return t.Spec.TID == int(c.TID) })
	switch {
	case i < 0:
		return refuse(ErrNoTarget, "there is no target %d", c.TID)
	case bound:
		return refuse(ErrBindingExists, "host %d is bound to target %d already", c.Host, f.hosts[c.Host].tid)
	case len(f.hosts) >= maxHosts:
		return refuse(ErrNoMemory, "%d hosts are bound, which is the most", maxHosts)
	case f.hosts == nil:
		f.hosts = map[uint32]binding{}
	}
	f.hosts[c.Host] = binding{there[i].Spec.TID, there[i].Spec.Name}
	return nil
}
