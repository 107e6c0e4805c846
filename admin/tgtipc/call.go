package tgtipc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/lunar-iscsi/lunar/admin"
)

// A refusal is an error with a number of tgt's: what this face refuses itself.
type refusal struct {
	no     Errno
	reason string
}

func (r *refusal) Error() string { return r.reason }

func refuse(no Errno, format string, args ...any) error {
	return &refusal{no, fmt.Sprintf(format, args...)}
}

// numbered is err with another number than that of its code.
type numbered struct {
	no Errno
	error
}

func (n *numbered) Unwrap() error { return n.error }

// errnoOf is the number of an error.
func errnoOf(err error) Errno {
	if r := (*refusal)(nil); errors.As(err, &r) {
		return r.no
	}
	if n := (*numbered)(nil); errors.As(err, &n) {
		return n.no
	}
	return errnos[admin.CodeOf(err)]
}

// A call is one request on its way.
type call struct {
	*Header
	payload string // empty where there was none
	svc     admin.Service
	face    *face
	log     Logger
	lookup  func(ctx context.Context, host string) ([]netip.Addr, error)
}

// The drivers that tgtd of Debian has, in the order of its tables. An empty name is the first.
const (
	iscsi = "iscsi"
	iser  = "iser"
)

// do carries the request out and returns the text of the answer.
func (c *call) do(ctx context.Context) (string, error) {
	lld, err := c.driver()
	if err != nil {
		return "", err
	}
	switch c.Mode {
	case ModeSystem:
		return c.system(ctx)
	case ModeTarget:
		return c.target(ctx)
	case ModeDevice:
		return c.device(ctx)
	case ModePortal:
		return c.portal(ctx)
	case ModeLLD:
		return c.lld(ctx, lld)
	case ModeSession:
		return c.session()
	case ModeConnection:
		return c.connection(ctx)
	case ModeAccount:
		return c.account(ctx)
	}
	// tgtd hands what it does not know to the driver, which wants a target before it says no.
	if c.Op == OpShow {
		if _, err := c.find(false); err != nil {
			return "", err
		}
	}
	return "", refuse(ErrInvalidRequest, "there is no mode %d", c.Mode)
}

// driver finds the driver, and says whether requests may be for it.
func (c *call) driver() (string, error) {
	switch {
	case c.LLD == "":
		return iscsi, nil // whatever its state
	case c.LLD != iscsi && c.LLD != iser:
		return "", refuse(ErrNoDriver, "there is no driver %q; iscsi is the only one", c.LLD)
	case c.Mode == ModeLLD:
		return c.LLD, nil
	case c.LLD == iser:
		return "", refuse(ErrNoDriver, "lunar has no iSER; its driver is iscsi")
	case c.face.isStopped():
		return "", refuse(ErrNoDriver, "driver iscsi is stopped; --mode lld --op start starts it")
	}
	return iscsi, nil
}

// notThere is the refusal of an operation that the mode does not have.
func (c *call) notThere(no Errno) error {
	return refuse(no, "mode %s has no operation %s", c.Mode, c.Op)
}

// ref names the request's target.
func (c *call) ref() admin.Ref { return admin.Ref{TID: int(c.TID)} }

// find returns the request's target.
func (c *call) find(live bool) (admin.TargetState, error) {
	if c.TID <= 0 {
		return admin.TargetState{}, refuse(ErrNoTarget, "there is no target %d", c.TID)
	}
	return c.svc.Target(c.ref(), live)
}

// A face is what only this face knows, and nobody saves. The zero value is ready for use.
type face struct {
	mu      sync.Mutex
	hosts   map[uint32]binding  // guarded by mu; ibmvio's, which mean nothing to iSCSI
	made    []binding           // guarded by mu; targets in the order of their making, of those made here
	stop    bool                // guarded by mu: the driver is stopped
	driver  sync.Mutex          // held while it is started or stopped; before mu
	stopped []admin.PortalState // guarded by driver: its portals while it is stopped
}

// A binding is a target that something is of: by both, so that another one of that number does not inherit it.
type binding struct {
	tid  int
	name string
}

// maxHosts bounds the bindings of hosts.
const maxHosts = 4096

func (f *face) isStopped() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stop
}

// added notes a target made here; there are the targets that there are.
func (f *face) added(b binding, there []admin.TargetState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made = slices.DeleteFunc(f.made, func(m binding) bool { return m == b || !has(there, m) })
	f.made = append(f.made, b)
}

// ordered returns targets in the order of their making: those from before this face came, or that others made, first.
func (f *face) ordered(ts []admin.TargetState) []admin.TargetState {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := func(t *admin.TargetState) int { return slices.Index(f.made, binding{t.Spec.TID, t.Spec.Name}) }
	ts = slices.Clone(ts)
	slices.SortStableFunc(ts, func(a, b admin.TargetState) int { return at(&a) - at(&b) })
	return ts
}

func has(ts []admin.TargetState, b binding) bool {
	return slices.ContainsFunc(ts, func(t admin.TargetState) bool { return t.Spec.TID == b.tid && t.Spec.Name == b.name })
}

// cString is b up to its first NUL.
func cString(b []byte) string {
	before, _, _ := bytes.Cut(b, []byte{0})
	return string(before)
}

// oneLine is s on one line, of at most n bytes.
func oneLine(s string, n int) string {
	s = strings.ToValidUTF8(strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' || r == 0 }), "; "), "?")
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return s
}

func lunText(lun uint64) string {
	if lun == NoLUN {
		return "none"
	}
	return strconv.FormatUint(lun, 10)
}
