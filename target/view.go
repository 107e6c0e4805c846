package target

import (
	"slices"

	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
	"github.com/lunar-iscsi/lunar/session/login"
)

// What a session sees of its target's LUNs, and what it may do there. A LUN that its mask does not show does not exist for it in any
// way: it is not there for commands and functions, not listed, and nothing tells of its coming and going.

// A view is what the configuration makes of one session. It belongs to the target's loop.
type view struct {
	rights rights
	masked bool
	luns   map[uint16]uint16 // where masked: the session's number to the target's; the conf's, read-only
	known  []seen            // where masked: what it has been told of, ascending
}

// A seen is a unit with the number that a session knows it by.
type seen struct {
	num  uint16
	unit *unit
}

func (s *sess) initiator() login.Initiator {
	return login.Initiator{Name: s.s.Nexus.Initiator, Sent: s.sent}
}

// unitAt returns the unit that a number names for the session; nil: none.
func (s *sess) unitAt(n uint16) *unit {
	v := &s.sees
	if !v.masked {
		return s.t.unitAt(n)
	}
	if lun, ok := v.luns[n]; ok {
		u := s.t.unitAt(lun)
		if u != nil && u.controller && n != 0 {
			return nil // the controller has no other number
		}
		return u
	}
	if u := s.t.unitAt(n); n == 0 && u != nil && u.controller {
		return u
	}
	return nil
}

// number returns the target's number of what the session knows as n.
func (s *sess) number(n uint16) uint16 {
	if lun, ok := s.sees.luns[n]; ok && s.sees.masked {
		return lun
	}
	return n
}

func (t *Target) unitAt(n uint16) *unit {
	if i, ok := t.find(n); ok {
		return t.luns[i].unit
	}
	return nil
}

// look lists what a session with a mask sees, ascending.
func (s *sess) look() (list []seen) {
	numbers := make([]uint16, 1, len(s.sees.luns)+1) // 0, whatever the mask says
	for n := range s.sees.luns {
		if n != 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		if u := s.unitAt(n); u != nil {
			list = append(list, seen{n, u})
		}
	}
	return list
}

// all lists what the session sees, ascending.
func (s *sess) all() []seen {
	if s.sees.masked {
		return s.look()
	}
	list := make([]seen, 0, len(s.t.luns))
	for _, e := range s.t.luns {
		list = append(list, seen{e.num, e.unit})
	}
	return list
}

// AppendLUNs is scsi.Inventory's: the LUNs that the nexus sees, ascending.
func (s *sess) AppendLUNs(dst []sam.LUN) []sam.LUN {
	for _, e := range s.all() {
		dst = append(dst, sam.NewLUN(e.num))
	}
	return dst
}

// Reported is scsi.Inventory's: the nexus knows its LUNs.
func (s *sess) Reported(sam.Nexus) {
	for _, ln := range s.luns {
		ln.nexus.Withdraw(sense.ReportedLUNsChanged)
	}
}

// find makes the nexus known to the unit that lun names.
func (s *sess) find(lun sam.LUN) *lunNexus {
	if n, ok := lun.Number(); ok {
		if u := s.unitAt(n); u != nil {
			nexus := u.lu.Attach(s.s.Nexus)
			nexus.Without, nexus.ReadOnly = s.s.Without(), s.sees.rights.readOnly
			if was, ok := s.had[lun]; ok {
				if was != u.lu.Volume() {
					nexus.Raise(sense.InquiryDataChanged) // the initiator may take it for the unit that was here
				}
				delete(s.had, lun)
			}
			ln := &lunNexus{lun: lun, unit: u, lu: u.lu, nexus: nexus, count: s.t.countersOf(s.number(n), u)}
			ln.stats = &ln.own
			return ln
		}
	}
	return &lunNexus{lun: lun, lu: s.t.absent, stats: &s.t.strays, count: &s.t.astray}
}

// target returns the target's number of the LUN that ln is at.
func (s *sess) target(ln *lunNexus) uint16 {
	n, _ := ln.lun.Number()
	return s.number(n)
}

// lost reports whether the session sees another unit, or none, where ln is.
func (s *sess) lost(ln *lunNexus) bool {
	n, ok := ln.lun.Number()
	return ok && s.unitAt(n) != ln.unit
}

// relook drops what no longer is as the session sees it.
func (s *sess) relook() {
	s.last = nil
	for lun, ln := range s.luns {
		if !s.lost(ln) {
			continue
		}
		s.t.l.detach(ln)
		delete(s.luns, lun)
		if s.had == nil {
			s.had = map[sam.LUN]string{}
		}
		s.had[lun] = ln.lu.Volume() // at most one for each number that there is
	}
}

// configure takes what a configuration makes of a new session.
func (s *sess) configure(c *conf, may rights) {
	s.setRights(may)
	luns, masked := c.view(s.initiator())
	s.sees.luns, s.sees.masked = luns, masked
	if masked {
		s.sees.known = s.look()
	}
}

// reconfigure takes what a new configuration makes of a session that goes on. Who would not be admitted any more keeps its rights.
func (s *sess) reconfigure(c *conf) {
	if may, ok := c.acl.admits(s.initiator(), s.from.Addr()); ok {
		s.setRights(may)
	}
	v := &s.sees
	was := s.all()
	v.luns, v.masked = c.view(s.initiator())
	v.known = nil
	if v.masked {
		v.known = s.look()
	}
	if slices.Equal(was, s.all()) {
		return
	}
	s.abortBy(s.lost)
	s.lunsChanged()
}

func (s *sess) setRights(r rights) {
	was := s.sees.rights
	s.sees.rights = r
	s.s.NoReset = r.noReset
	if r.readOnly == was.readOnly {
		return
	}
	for _, ln := range s.luns {
		ln.nexus.ReadOnly = r.readOnly
		ln.nexus.Raise(sense.ModeParametersChanged) // the WP bit is among them
	}
}

// lunsChangedLocked makes the sessions look at the LUN map anew.
func (t *Target) lunsChangedLocked() {
	t.forgetCounters()
	for _, s := range t.sessions {
		if s.sees.masked {
			now := s.look()
			if slices.Equal(now, s.sees.known) {
				continue
			}
			s.sees.known = now
		}
		s.lunsChanged()
	}
	t.l.ev.Wake() // there may be something to send
}

// lunsChanged tells the initiator that its LUNs are others than they were (SPC-4: 3Fh/0Eh at every unit), and without waiting for a
// command of its: Linux and ESXi look for LUNs anew on that message, and this condition is the only one that all take rightly.
func (s *sess) lunsChanged() {
	l := s.t.l
	s.relook()
	for _, ln := range s.luns {
		ln.nexus.Raise(sense.ReportedLUNsChanged)
	}
	var b [sense.MaxLen]byte
	d := sense.Data{Key: sense.UnitAttention, Code: sense.ReportedLUNsChanged, Bit: -1}
	lun := sam.NewLUN(0)
	if list := s.AppendLUNs(nil); len(list) != 0 {
		lun = list[0]
	}
	l.perform(s.s.Event(lun, d.AppendFixed(b[:0]), l.takeActs()))
}

// controllerLocked puts the controller at LUN 0, behind a disk that is there, or takes it away.
func (t *Target) controllerLocked(there bool) {
	if there == (t.controller != nil) {
		return
	}
	at0 := t.unitAt(0)
	if there {
		c := t.conf.Load()
		u := &unit{controller: true, refs: 1, lu: scsi.NewController(scsi.ControllerConfig{TargetName: t.name, Identity: t.name, TgtNaming: c.TgtNaming, TID: c.TID})}
		u.lu.SetPorts(t.name, t.s.table.Load().groups(t))
		t.controller = u
		if at0 != nil {
			return
		}
		t.luns = slices.Insert(t.luns, 0, lunEntry{lun: sam.NewLUN(0), unit: u})
	} else {
		u := t.controller
		t.controller = nil
		if at0 != u {
			return
		}
		t.luns = t.luns[1:]
		t.abortLUNLocked(0)
	}
	t.lunsChangedLocked()
}

// shows reports whether the session sees u at all.
func (s *sess) shows(u *unit) bool {
	return !s.sees.masked || slices.ContainsFunc(s.sees.known, func(e seen) bool { return e.unit == u })
}
