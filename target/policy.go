package target

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A policy answers what one login asks, from the snapshots of the moment.
type policy struct {
	s    *Server
	way  way
	conf *conf // of the target that was asked for; nil: of none so far
}

// Target is login.Policy's. What the initiator may not use is, for it, not there: both are TargetNotFound, without a word more.
func (p *policy) Target(i login.Initiator, name string) (login.TargetInfo, pdu.LoginStatus) {
	refuse := func(s pdu.LoginStatus, format string, args ...any) (login.TargetInfo, pdu.LoginStatus) {
		return login.TargetInfo{Why: fmt.Errorf(format, args...)}, s
	}
	t := p.s.table.Load().byName[name]
	if t == nil {
		return refuse(pdu.TargetNotFound, "there is no target %s", name)
	}
	c := t.conf.Load()
	p.conf = c
	if !c.on(p.way.portal.group) {
		return refuse(pdu.TargetNotFound, "portal group %d does not lead to target %s", p.way.portal.group, name)
	}
	if c.redirect != "" {
		// Ahead of all else, as with tgt: whoever asks here is meant to ask there.
		status := pdu.TargetMovedTemp
		if c.Redirect.Permanent {
			status = pdu.TargetMovedPerm
		}
		return login.TargetInfo{Redirect: c.redirect}, status
	}
	if _, ok := c.acl.admits(i, p.way.from); !ok {
		return refuse(pdu.TargetNotFound, "target %s: %w", name, errNotAdmitted)
	}
	if c.Offline {
		return refuse(pdu.TargetError, "target %s is offline", name)
	}
	if !t.ready.Load() {
		return refuse(pdu.ServiceUnavailable, "target %s is going away", name)
	}
	return login.TargetInfo{Alias: c.Alias, Auth: c.auth, Params: c.params,
		RequireHeaderDigest: c.RequireHeaderDigest, RequireDataDigest: c.RequireDataDigest}, pdu.LoginSuccess
}

// Discovery is login.Policy's.
func (p *policy) Discovery(login.Initiator) (login.Auth, pdu.LoginStatus) {
	return *p.s.discovery.Load(), pdu.LoginSuccess
}

// again answers what may have changed while a login went on, with t's loop's lock held: nobody comes in by a rule or an account that
// Configure has already replaced.
func (p *policy) again(t *Target, res *login.Result) (*conf, rights, pdu.LoginStatus, error) {
	c := t.conf.Load()
	may, ok := c.acl.admits(login.Initiator{Name: res.InitiatorName, Sent: res.InitiatorSent}, p.way.from)
	switch {
	case !ok || !c.on(res.PortalGroup):
		return nil, rights{}, pdu.TargetNotFound, fmt.Errorf("target %s: %w any more", t.name, errNotAdmitted)
	case c.Offline:
		return nil, rights{}, pdu.TargetError, fmt.Errorf("target %s was taken offline meanwhile", t.name)
	case c != p.conf && (c.redirect != p.conf.redirect || !reflect.DeepEqual(c.auth, p.conf.auth)):
		return nil, rights{}, pdu.ServiceUnavailable, errors.New("the target was configured anew meanwhile; the initiator is to try again")
	}
	return c, may, pdu.LoginSuccess, nil
}

// SetDiscovery says how initiators authenticate for discovery from now on: by CHAP as soon as there is an account that comes in.
func (s *Server) SetDiscovery(a login.Auth) {
	s.discovery.Store(cloneAuth(&a))
}
