package target

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// infoHold is how many sessions are looked at under one hold of the loop's lock: some 50 µs. Ten thousand at once would keep the loop from
// its work for tens of milliseconds.
const infoHold = 64

// Info tells of the target as it is now. It holds the lock of its loop once, for a moment; where there are more than infoHold
// sessions, again for each so many of them, so that what they have then done may be more than the LUNs' totals tell.
func (t *Target) Info() Info {
	l := t.l
	l.ev.Lock()
	i := Info{Name: t.name, Ready: t.ready.Load(), LUNs: t.disksLocked(), Absent: t.strays,
		Loop: l.name, Busy: l.ev.Busy(), Up: time.Duration(l.s.group.Clock() - l.made), Commands: t.past}
	for _, se := range t.sessions {
		i.Commands.Add(&se.s.Counters)
	}
	i.Sessions = t.sessionsUnlock()
	return i
}

// Sessions tells of the target's normal sessions, oldest first: all at one moment where there are not more than infoHold.
func (t *Target) Sessions() []SessionInfo {
	t.l.ev.Lock()
	return t.sessionsUnlock()
}

// Disks tells of the target's LUNs, ascending; the controller is one of them.
func (t *Target) Disks() []LUNInfo {
	t.l.ev.Lock()
	defer t.l.ev.Unlock()
	return t.disksLocked()
}

// sessionsUnlock tells of the sessions. It is called with the lock, and gives it back.
func (t *Target) sessionsUnlock() []SessionInfo {
	list := slices.Collect(maps.Values(t.sessions))
	infos := make([]SessionInfo, 0, len(list))
	many := len(list) > infoHold
	if many {
		t.l.ev.Unlock()
	}
	slices.SortFunc(list, func(a, b *sess) int { return cmp.Compare(a.seq, b.seq) })
	for len(list) > infoHold {
		t.l.ev.Lock()
		infos = appendInfos(infos, list[:infoHold])
		t.l.ev.Unlock()
		list = list[infoHold:]
	}
	if many {
		t.l.ev.Lock()
	}
	infos = appendInfos(infos, list)
	t.l.ev.Unlock()
	return infos
}

// appendInfos tells of those of list that have not ended.
func appendInfos(infos []SessionInfo, list []*sess) []SessionInfo {
	for _, se := range list {
		if !se.ended {
			infos = append(infos, se.info())
		}
	}
	return infos
}

func (s *sess) info() SessionInfo {
	i := SessionInfo{TSIH: s.s.TSIH, ISID: s.s.Nexus.ISID, Initiator: s.s.Nexus.Initiator, Alias: s.alias, User: s.user, Group: s.s.Nexus.PortGroup,
		Since: s.since, Params: s.s.Params, LUNs: make([]LUNStats, 0, len(s.t.luns))}
	for _, sc := range s.s.Conns() {
		c := sc.Ref.(*conn)
		i.Conns = append(i.Conns, ConnInfo{CID: sc.CID, Remote: c.from, Local: c.way.local, Counters: c.count})
	}
	for _, e := range s.all() {
		row := LUNStats{}
		if ln := s.luns[sam.NewLUN(e.num)]; ln != nil {
			row = ln.own
		}
		row.LUN = s.number(e.num)
		i.Queued += row.Queued()
		i.LUNs = append(i.LUNs, row)
	}
	slices.SortFunc(i.LUNs, func(a, b LUNStats) int { return cmp.Compare(a.LUN, b.LUN) }) // a mask may have them in another order
	return i
}

func (t *Target) disksLocked() []LUNInfo {
	live := map[*lunCounters]*LUNStats{}
	for _, se := range t.sessions {
		for _, ln := range se.luns {
			if live[ln.count] == nil {
				live[ln.count] = &LUNStats{}
			}
			live[ln.count].Add(&ln.own)
		}
	}
	infos := make([]LUNInfo, len(t.luns))
	for i := range t.luns {
		e := &t.luns[i]
		infos[i] = e.unit.info()
		c := t.countersOf(e.num, e.unit)
		c.info(&infos[i])
		if s := live[c]; s != nil {
			infos[i].Stats.Add(s)
		}
		infos[i].LUN, infos[i].Stats.LUN = e.num, e.num
		infos[i].Queued = infos[i].Stats.Queued()
	}
	return infos
}

// info says what u is.
func (u *unit) info() LUNInfo {
	d := u.lu.Describe()
	return LUNInfo{Controller: d.Controller, Size: d.Size, BlockSize: d.BlockSize, Online: d.Online, Failed: d.Failed, PreventRemoval: d.PreventRemoval, SWP: d.SWP,
		Fenced: d.Fenced, InDoubt: u.lu.InDoubt(), Late: u.lu.Late(),
		ReadOnly: d.ReadOnly, Thin: d.Thin, WriteCache: d.WriteCache, Identity: d.Identity, NAA: d.NAA, Serial: d.Serial}
}

// info adds what c counts. Stats are those of sessions that are no more.
func (c *lunCounters) info(i *LUNInfo) {
	i.Stats, i.ReadLatency, i.WriteLatency = c.past, c.read, c.write
	if len(c.errors) != 0 {
		i.Errors = make(map[string]uint64, len(c.errors)+1)
		for k, n := range c.errors {
			i.Errors[k.String()] = n
		}
		if c.moreErrors != 0 {
			i.Errors[otherErrors] = c.moreErrors
		}
	}
}
