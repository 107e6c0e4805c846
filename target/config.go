package target

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/login"
)

// TargetConfig says what a target is and who may use it. The zero value is a plain target for everybody. All but LoopOf and AnyName may
// change while the target is in use: see Target.Configure.
type TargetConfig struct {
	Alias string // TargetAlias, for people
	// AnyName takes a name that is no iSCSI name, as tgt does: of letters and digits of ASCII, ':', '.' and '-'.
	AnyName bool
	// NoController leaves LUN 0 empty until a disk is put there; otherwise it is tgt's controller.
	NoController bool
	// TgtNaming and TID give the controller the names that tgtd gives the one of its target number TID.
	TgtNaming bool
	TID       int
	// LoopOf puts the target on another target's loop: the two then share one CPU and may export one volume.
	LoopOf *Target
	// PortalGroups are the tags of the portal groups that lead to the target; none: every portal does.
	PortalGroups []uint16

	// Access says who may use the target; nil: everybody. Whom it does not admit finds no target of that name.
	Access *Access
	// Auth is how initiators authenticate, by CHAP as soon as it has an account that comes in; nil: Config.Auth. An account without a
	// secret lets nobody in.
	Auth *login.Auth
	// Params are offers and limits for the negotiation of new sessions; nil: Config.Login's. What the server itself does not do (further
	// connections, error recovery levels, data out of order, keeping a session that has lost its connection) it does not offer here either.
	Params *login.Params
	// RequireHeaderDigest and RequireDataDigest refuse logins without the digest, beside those of Config.Login.
	RequireHeaderDigest, RequireDataDigest bool
	// Window, NOPInterval and NOPTimeout are those of session.Limits for new sessions; 0: as Config.Limit says.
	Window                  uint32
	NOPInterval, NOPTimeout int64
	// Masks say which LUNs an initiator sees: the first that fits its name. Where none fits it sees all, under their own numbers.
	Masks []Mask
	// Redirect sends every login elsewhere, before it is looked at who it is.
	Redirect Redirect
	// Offline refuses logins with status 0300h, and answers every command of the sessions that there are BUSY.
	Offline bool
}

// A Mask is what some initiators see of a target's LUNs: those that it lists, and LUN 0's controller where there is one and the
// number is not given to a disk.
type Mask struct {
	Initiator string // as in Rule; not empty
	LUNs      []MaskLUN
}

// A MaskLUN shows the target's LUN of number LUN as number As, both 0 to 16383.
type MaskLUN struct{ As, LUN uint16 }

// A Redirect is where logins are sent. The zero value is nowhere.
type Redirect struct {
	Address   string // IP address or DNS name, without a port; empty: no redirect
	Port      uint16 // 0: 3260
	Permanent bool   // status 0102h rather than 0101h
}

// DefaultPort is iSCSI's TCP port (RFC 7143 §13.8).
const DefaultPort = 3260

// Bounds of a TargetConfig.
const (
	MaxWindow   = 65535
	MaxMaskLUNs = 1 << 18 // of all its masks together
)

// A conf is a TargetConfig that was checked and is ready for use. It is read-only: logins and discovery read it without a lock.
type conf struct {
	TargetConfig
	acl      *acl
	masks    nameIndex
	views    []map[uint16]uint16 // of Masks: As to LUN
	params   *login.Params       // Params within what the server does, or nil
	auth     login.Auth
	limits   session.Limits
	redirect string // TargetAddress, or empty
}

// CheckTarget reports why a target could not be as cfg says, before one is made or changed. A target that it finds nothing wrong with can be
// configured so.
func (s *Server) CheckTarget(cfg *TargetConfig) error {
	_, err := s.newConf(*cfg)
	return err
}

// newConf checks cfg as a whole and takes a copy of it.
func (s *Server) newConf(cfg TargetConfig) (*conf, error) {
	c := &conf{TargetConfig: cfg.clone(), auth: s.cfg.Auth, limits: s.cfg.Limit}
	cfg = c.TargetConfig // c's own memory
	if slices.Contains(cfg.PortalGroups, 0) {
		return nil, errors.New("portal group tags are 1 to 65535")
	}
	var err error
	if c.acl, err = newACL(cfg.Access); err != nil {
		return nil, err
	}
	if err := c.setMasks(); err != nil {
		return nil, err
	}
	if a := cfg.Auth; a != nil {
		if slices.ContainsFunc(a.Incoming, func(a login.Account) bool { return a.Name == "" }) || a.Outgoing != nil && a.Outgoing.Name == "" {
			return nil, errors.New("an account without a name")
		}
		c.auth = *a
	}
	if cfg.Params != nil {
		p, err := s.offers(cfg.Params)
		if err != nil {
			return nil, err
		}
		c.params = &p
	}
	offer := c.params
	if offer == nil {
		offer = &s.cfg.Login.Params
	}
	switch {
	case cfg.RequireHeaderDigest && !offer.HeaderDigest:
		return nil, errors.New("HeaderDigest=CRC32C is required and not offered")
	case cfg.RequireDataDigest && !offer.DataDigest:
		return nil, errors.New("DataDigest=CRC32C is required and not offered")
	case cfg.Window > MaxWindow:
		return nil, fmt.Errorf("a window of %d commands, at most %d are allowed", cfg.Window, MaxWindow)
	case cfg.NOPTimeout < 0:
		return nil, fmt.Errorf("a ping time-out of %d ns", cfg.NOPTimeout)
	}
	if cfg.Window != 0 {
		c.limits.Window = cfg.Window
	}
	if cfg.NOPInterval != 0 {
		c.limits.NOPInterval = cfg.NOPInterval
	}
	if cfg.NOPTimeout != 0 {
		c.limits.NOPTimeout = cfg.NOPTimeout
	}
	c.redirect, err = cfg.Redirect.address()
	return c, err
}

// offers returns what of p the server can offer.
func (s *Server) offers(p *login.Params) (login.Params, error) {
	own, q := &s.cfg.Login.Params, *p
	// RFC 7143 §13.14; who sets one of the two need not think of the other.
	q.FirstBurstLength = min(q.FirstBurstLength, q.MaxBurstLength)
	if err := q.Check(); err != nil {
		return q, err
	}
	q.MaxConnections = min(q.MaxConnections, own.MaxConnections)
	q.ErrorRecoveryLevel = min(q.ErrorRecoveryLevel, own.ErrorRecoveryLevel)
	q.DefaultTime2Retain = min(q.DefaultTime2Retain, own.DefaultTime2Retain)
	q.TaskReporting = min(q.TaskReporting, own.TaskReporting)
	q.ProtocolLevel = min(q.ProtocolLevel, own.ProtocolLevel)
	q.DataPDUInOrder = q.DataPDUInOrder || own.DataPDUInOrder
	q.DataSequenceInOrder = q.DataSequenceInOrder || own.DataSequenceInOrder
	return q, nil
}

// setMasks makes views of Masks.
func (c *conf) setMasks() error {
	if len(c.Masks) > MaxRules {
		return fmt.Errorf("%d LUN masks, at most %d are allowed", len(c.Masks), MaxRules)
	}
	patterns := make([]string, len(c.Masks))
	c.views = make([]map[uint16]uint16, len(c.Masks))
	left := MaxMaskLUNs
	for i, m := range c.Masks {
		if left -= len(m.LUNs); left < 0 {
			return fmt.Errorf("the LUN masks have more than %d LUNs", MaxMaskLUNs)
		}
		if patterns[i] = m.Initiator; m.Initiator == "" {
			return fmt.Errorf("LUN mask %d names no initiator", i+1)
		}
		view, shown := make(map[uint16]uint16, len(m.LUNs)), make(map[uint16]bool, len(m.LUNs))
		for _, l := range m.LUNs {
			_, twice := view[l.As]
			switch {
			case l.As > sam.MaxFlatLUN || l.LUN > sam.MaxFlatLUN:
				return fmt.Errorf("LUN mask of %q: LUNs go up to %d", m.Initiator, sam.MaxFlatLUN)
			case twice:
				return fmt.Errorf("LUN mask of %q: two LUNs as %d", m.Initiator, l.As)
			case shown[l.LUN]:
				// One nexus at one unit is one set of unit attentions and reservations.
				return fmt.Errorf("LUN mask of %q: LUN %d under two numbers", m.Initiator, l.LUN)
			}
			view[l.As], shown[l.LUN] = l.LUN, true
		}
		c.views[i] = view
	}
	var err error
	if c.masks, err = newNameIndex(patterns, c.Access != nil && c.Access.ExactNames); err != nil {
		return fmt.Errorf("LUN mask: %w", err)
	}
	return nil
}

// view returns what i sees of the LUNs: the target's number by i's. mask is false where it sees all as they are.
func (c *conf) view(i login.Initiator) (view map[uint16]uint16, mask bool) {
	n := c.masks.first(i, func(int) bool { return true })
	if n < 0 {
		return nil, false
	}
	return c.views[n], true
}

// on reports whether the portals of a group lead to the target.
func (c *conf) on(group uint16) bool {
	return len(c.PortalGroups) == 0 || slices.Contains(c.PortalGroups, group)
}

// address returns r as the value of TargetAddress. In the answer to a login it has no portal group tag (RFC 7143 §13.8).
func (r Redirect) address() (string, error) {
	if r.Address == "" {
		return "", nil
	}
	host := strings.TrimSuffix(strings.TrimPrefix(r.Address, "["), "]")
	a, err := netip.ParseAddr(host)
	switch {
	case err != nil && !hostName(r.Address):
		return "", fmt.Errorf("redirect to %q, which is neither an IP address nor a host name", r.Address)
	case err == nil && (a.IsUnspecified() || a.Zone() != ""):
		return "", fmt.Errorf("redirect to %s, where no other host can connect to", r.Address)
	}
	port := r.Port
	if port == 0 {
		port = DefaultPort
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port))), nil
}

// clone returns a copy of c that shares nothing with it but LoopOf.
func (c *TargetConfig) clone() TargetConfig {
	n := *c
	n.PortalGroups = slices.Clone(c.PortalGroups)
	if c.Access != nil {
		n.Access = &Access{Rules: slices.Clone(c.Access.Rules), ExactNames: c.Access.ExactNames}
	}
	if c.Auth != nil {
		n.Auth = cloneAuth(c.Auth)
	}
	if c.Params != nil {
		p := *c.Params
		n.Params = &p
	}
	n.Masks = slices.Clone(c.Masks)
	for i := range n.Masks {
		n.Masks[i].LUNs = slices.Clone(n.Masks[i].LUNs)
	}
	return n
}

func cloneAuth(a *login.Auth) *login.Auth {
	n := login.Auth{Incoming: slices.Clone(a.Incoming)}
	for i := range n.Incoming {
		n.Incoming[i].Secret = slices.Clone(n.Incoming[i].Secret)
	}
	if o := a.Outgoing; o != nil {
		n.Outgoing = &login.Account{Name: o.Name, Secret: slices.Clone(o.Secret)}
	}
	return &n
}

// Config returns the target's configuration as it was given. The caller may change it.
func (t *Target) Config() TargetConfig { return t.conf.Load().clone() }

// Configure replaces the target's whole configuration. It is checked first and then takes effect at once and as a whole: an error
// says what is wrong, and nothing has changed; ErrNoTarget: the target was removed. Sessions that are there go on, even where they would
// not be admitted any more, and with the rights they have had; of those who would be, what they may do and see changes with it, and
// their initiators are told of other LUNs. Authentication, negotiation and limits are those of later logins. LoopOf and AnyName
// cannot change.
func (t *Target) Configure(cfg TargetConfig) error {
	next, err := t.s.newConf(cfg)
	if err != nil {
		return fmt.Errorf("target %s: %w", t.name, err)
	}
	t.configuring.Lock()
	defer t.configuring.Unlock()
	old := t.conf.Load()
	if cfg.LoopOf != old.LoopOf || cfg.AnyName != old.AnyName {
		return fmt.Errorf("target %s: its loop and the kind of its name stay as they were made", t.name)
	}
	l := t.l
	same := reflect.DeepEqual(next.Access, old.Access) && reflect.DeepEqual(next.Masks, old.Masks)
	l.ev.Lock()
	defer l.ev.Unlock()
	if l.closed || !t.ready.Load() {
		return fmt.Errorf("target %s: %w", t.name, ErrNoTarget)
	}
	t.conf.Store(next)
	t.offline = next.Offline
	t.syncPortsLocked()
	if next.TgtNaming != old.TgtNaming || next.TID != old.TID {
		t.controllerLocked(false) // it is known by other names from now on
	}
	t.controllerLocked(!next.NoController)
	if !same {
		for _, s := range t.sessions {
			s.reconfigure(next)
		}
	}
	l.ev.Wake() // there may be something to send
	return nil
}
