package adminchaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

// A kind is one of the calls that administrators make.
type kind int

const (
	addTarget kind = iota
	removeTarget
	forceTarget
	online
	setAlias
	setAccess
	setMap
	setBurst
	bind
	drain
	addLUN
	removeLUN
	editLUN
	resize
	closeSession
	closeConnection
	account
	discovery
	portal
	look
	kinds
)

func (k kind) String() string {
	return [kinds]string{"target add", "target remove", "target remove by force", "target offline", "target alias", "target access", "target LUN map", "target parameter",
		"target bind", "target drain", "LUN add", "LUN remove", "LUN change", "LUN resize", "session close", "connection close", "account", "discovery", "portal", "look"}[k]
}

// weights say how often each kind comes.
var weights = [kinds]int{addTarget: 6, removeTarget: 2, forceTarget: 3, online: 6, setAlias: 3, setAccess: 3, setMap: 3, setBurst: 2, bind: 3, drain: 2,
	addLUN: 14, removeLUN: 8, editLUN: 8, resize: 8, closeSession: 4, closeConnection: 3, account: 4, discovery: 2, portal: 2, look: 6}

// may are the refusals that each kind may meet because of what others do.
var may = [kinds][]admin.Code{
	addTarget:       {admin.TargetExists, admin.OpenFailed, admin.Unsupported},
	removeTarget:    {admin.TargetInUse},
	bind:            {admin.NoAccount},
	addLUN:          {admin.LUNExists, admin.LUNInUse, admin.OpenFailed, admin.Unsupported},
	removeLUN:       {admin.NoLUN, admin.LUNInUse},
	editLUN:         {admin.NoLUN},
	resize:          {admin.NoLUN, admin.WouldShrink, admin.Invalid, admin.Unsupported}, // a disk without a medium, or open without the right to write
	closeSession:    {admin.NoSession},
	closeConnection: {admin.NoSession, admin.NoConnection},
	account:         {admin.NoAccount, admin.AccountExists},
	discovery:       {admin.NoAccount},
	portal:          {admin.NoPortal},
}

// accountNames and secrets are the accounts that come and go. Initiators know all of them.
var (
	accountNames = [...]string{"anna", "berta"}
	secrets      = [...]string{"a secret of the first", "a secret of the second"}
)

func name(i int) string { return fmt.Sprintf("iqn.2026-11.io.lunar:chaos%d", i) }

// An administrator makes calls.
type administrator struct {
	*life
	id  int
	rnd *rand.Rand
}

// work makes so many calls and returns the first violation.
func (a *administrator) work(n int) error {
	for i := range n {
		k := a.kind()
		began := time.Now()
		err := a.one(k)
		if took := time.Since(began); took > patience {
			return fmt.Errorf("call %d of administrator %d, %v, took %v", i, a.id, k, took)
		}
		if err == nil {
			a.done[k].Add(1)
			continue
		}
		if err = a.allowed(k, err); err != nil {
			return fmt.Errorf("call %d of administrator %d, %v: %w", i, a.id, k, err)
		}
		a.refused[k].Add(1)
	}
	return nil
}

func (a *administrator) kind() kind {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	n := a.rnd.IntN(sum)
	for k, w := range weights {
		if n -= w; n < 0 {
			return kind(k)
		}
	}
	return look
}

// allowed is nil for a refusal that the kind of call may meet.
func (a *administrator) allowed(k kind, err error) error {
	code := admin.CodeOf(err)
	var e *admin.Error
	switch {
	case !errors.As(err, &e):
		return fmt.Errorf("not an *admin.Error: %w", err)
	case code == admin.NoTarget && k != addTarget:
		return nil
	case code == admin.OpenFailed && !strings.Contains(err.Error(), "try again"):
		return err
	case code == admin.Invalid && !strings.Contains(err.Error(), "no medium"):
		return err
	case slices.Contains(may[k], code):
		return nil
	}
	return err
}

// do runs a call that sets sets, and tells the model.
func (a *administrator) do(k kind, sets map[string]string, f func(ctx context.Context) error) error {
	return a.model.run(&call{what: k.String(), sets: sets}, f)
}

// run runs a call and enters it. One that failed has changed nothing.
func (m *model) run(c *call, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c.begin = m.tick()
	err := f(ctx)
	if err == nil || c.maybe {
		m.ended(c)
	}
	return err
}

// one makes one call of a kind.
func (a *administrator) one(k kind) error {
	of := a.rnd.IntN(targets)
	target := name(of)
	lun := uint16(1 + a.rnd.IntN(maxLUN))
	switch k {
	case addTarget:
		return a.addTarget(of)
	case removeTarget, forceTarget:
		return a.model.run(&call{what: k.String(), all: true, prefix: prefix(target)}, func(ctx context.Context) error {
			return a.m.RemoveTarget(ctx, admin.Ref{Name: target}, k == forceTarget)
		})
	case online, setAlias, setAccess, setMap, setBurst, bind:
		return a.edit(k, target)
	case drain:
		return a.model.run(&call{what: k.String(), maybe: true, sets: map[string]string{prefix(target) + "offline": flag(true)}}, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			err := a.m.DrainTarget(ctx, admin.Ref{Name: target})
			if admin.CodeOf(err) == admin.Timeout {
				return nil // it had to wait for its turn
			}
			return err
		})
	case addLUN, removeLUN, editLUN, resize:
		return a.onLUN(k, of, lun)
	case closeSession, closeConnection:
		return a.cut(k, target)
	case account:
		return a.account()
	case discovery:
		who := a.someAccount()
		return a.do(k, map[string]string{"discovery": strings.Join(who, ",")}, func(ctx context.Context) error {
			return a.m.EditDiscovery(ctx, func(x *spec.Auth) error { x.Incoming = who; return nil })
		})
	case portal:
		return a.portalComes()
	}
	return a.look()
}

// someAccount is nobody, or one account.
func (a *administrator) someAccount() []string {
	if a.rnd.IntN(3) == 0 {
		return []string{accountNames[a.rnd.IntN(len(accountNames))]}
	}
	return nil
}

// newLUN is a disk of memory, or one on a file: of this number of the target alone, or one that others may have, too, and which is then
// one disk with several ways to it.
func (a *administrator) newLUN(target int, n uint16) spec.LUN {
	l := spec.LUN{Number: n, Volume: fmt.Sprintf("mem:?size=%d", minSize), ReadOnly: a.rnd.IntN(8) == 0}
	if a.rnd.IntN(2) == 0 {
		i := a.rnd.IntN(shared + 1)
		if i == shared {
			i = shared + target*maxLUN + int(n) - 1
		}
		l.Volume = fmt.Sprintf("file://%s?size=%d", a.file(i), minSize)
		l.Serial = fmt.Sprint(fileSerial, i)
		l.Identity = l.Serial
		l.ReadOnly = false
	}
	return l
}

func (a *administrator) addTarget(of int) error {
	target := name(of)
	t := spec.Target{Name: target, Access: []spec.Rule{{Address: "ALL"}}, Alias: fmt.Sprint("made ", a.rnd.Uint32())}
	for n := range uint16(a.rnd.IntN(3)) {
		t.LUNs = append(t.LUNs, a.newLUN(of, n+1))
	}
	c := &call{what: addTarget.String(), all: true, prefix: prefix(target), sets: map[string]string{}}
	return a.model.run(c, func(ctx context.Context) error {
		made, err := a.m.AddTarget(ctx, t)
		if err == nil {
			putTarget(c.sets, &made)
		}
		return err
	})
}

func (a *administrator) edit(k kind, target string) error {
	t := spec.Target{Name: target}
	var change func(x *spec.Target)
	var key string
	switch k {
	case online:
		key, t.Offline = "offline", a.rnd.IntN(4) == 0
		change = func(x *spec.Target) { x.Offline = t.Offline }
	case setAlias:
		key, t.Alias = "alias", fmt.Sprint("set ", a.rnd.Uint32())
		change = func(x *spec.Target) { x.Alias = t.Alias }
	case setAccess:
		key, t.Access = "access", []spec.Rule{{Address: "127.0.0.0/8", NoReset: a.rnd.IntN(2) == 0}, {Initiator: "iqn.nobody*"}}
		if a.rnd.IntN(4) == 0 {
			t.Access = append([]spec.Rule{{Initiator: initiatorName(a.rnd.IntN(initiators)), ReadOnly: true}}, t.Access...)
		}
		change = func(x *spec.Target) { x.Access = t.Access }
	case setMap:
		key = "maps"
		if a.rnd.IntN(2) == 0 {
			mp := spec.LUNMap{Initiator: initiatorName(a.rnd.IntN(initiators))}
			for as, lun := range a.rnd.Perm(maxLUN)[:1+a.rnd.IntN(maxLUN)] {
				mp.LUNs = append(mp.LUNs, spec.MappedLUN{As: uint16(as + 1), LUN: uint16(lun + 1)})
			}
			t.LUNMaps = []spec.LUNMap{mp}
		}
		change = func(x *spec.Target) { x.LUNMaps = t.LUNMaps }
	case setBurst:
		key, t.Params = "burst", map[string]string{"MaxBurstLength": fmt.Sprint(8192 << a.rnd.IntN(4))}
		change = func(x *spec.Target) { x.Params = t.Params }
	case bind:
		key, t.Auth.Incoming = "auth", a.someAccount()
		change = func(x *spec.Target) { x.Auth = t.Auth }
	}
	all := map[string]string{}
	putTarget(all, &t)
	key = prefix(target) + key
	return a.do(k, map[string]string{key: all[key]}, func(ctx context.Context) error {
		return a.m.EditTarget(ctx, admin.Ref{Name: target}, func(x *spec.Target) error { change(x); return nil })
	})
}

func (a *administrator) onLUN(k kind, of int, lun uint16) error {
	target := name(of)
	ref, p, force := admin.Ref{Name: target}, lunPrefix(target, lun), a.rnd.IntN(2) == 0
	c := &call{what: k.String(), sets: map[string]string{}}
	switch k {
	case addLUN:
		l := a.newLUN(of, lun)
		c.all, c.prefix = true, p
		return a.model.run(c, func(ctx context.Context) error {
			made, err := a.m.AddLUN(ctx, ref, l, force)
			if err == nil {
				putLUN(c.sets, target, &made)
			}
			return err
		})
	case removeLUN:
		c.all, c.prefix = true, p
		return a.model.run(c, func(ctx context.Context) error { return a.m.RemoveLUN(ctx, ref, lun, force) })
	case editLUN:
		off := a.rnd.IntN(3) == 0
		c.sets[p+"offline"] = flag(off)
		// The disk may stand behind other LUNs: it is then offline, or online again, behind each.
		ways := &call{begin: a.model.tick(), what: k.String() + ", the same disk", maybe: true, sets: map[string]string{}}
		err := a.model.run(c, func(ctx context.Context) error {
			return a.m.EditLUN(ctx, ref, lun, func(l *spec.LUN) error {
				var i int
				if l.Offline = off; fileOf(l.Serial, &i) && i < shared {
					everywhere(ways.sets, "offline", flag(off))
				}
				return nil
			})
		})
		if len(ways.sets) != 0 {
			a.model.ended(ways)
		}
		return err
	}
	size := int64(minSize + a.rnd.IntN((maxSize-minSize)/4096)*4096)
	if a.rnd.IntN(4) == 0 {
		size = 0
	}
	c.maybe = true // only a volume whose URI says its size has it in the document; liveAsSet compares the two
	return a.model.run(c, func(ctx context.Context) error {
		now, err := a.m.ResizeLUN(ctx, ref, lun, size, force)
		if err == nil && size != 0 && now != size {
			err = fmt.Errorf("%d bytes instead of %d", now, size)
		}
		everywhere(c.sets, "size", fmt.Sprint(now)) // the disk may stand behind other LUNs
		return err
	})
}

// everywhere sets what any LUN of any target may have become.
func everywhere(sets map[string]string, key, value string) {
	for of := range targets {
		for n := range uint16(maxLUN) {
			sets[lunPrefix(name(of), n+1)+key] = value
		}
	}
}

// cut ends one of the sessions that are there.
func (a *administrator) cut(k kind, target string) error {
	ref := admin.Ref{Name: target}
	s, err := a.m.Target(ref, true)
	if err != nil {
		return err
	}
	var tsih uint16 // 0 is nobody's
	if list := s.Live.Sessions; len(list) != 0 {
		tsih = list[a.rnd.IntN(len(list))].TSIH
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if k == closeSession {
		return a.m.CloseSession(ctx, ref, tsih)
	}
	return a.m.CloseConnection(ctx, ref, tsih, 0)
}

func (a *administrator) account() error {
	who := a.rnd.IntN(len(accountNames))
	acc := spec.Account{Name: accountNames[who], Secret: secrets[a.rnd.IntN(len(secrets))]}
	c := &call{what: account.String(), sets: map[string]string{"account " + acc.Name: acc.Secret}}
	switch a.rnd.IntN(3) {
	case 0:
		return a.model.run(c, func(ctx context.Context) error { return a.m.AddAccount(ctx, acc) })
	case 1:
		return a.model.run(c, func(ctx context.Context) error { return a.m.SetSecret(ctx, acc.Name, acc.Secret) })
	}
	c.sets["account "+acc.Name] = ""
	// Whoever was bound to it is not any more, wherever that was.
	unbound := &call{what: "account remove", maybe: true, sets: map[string]string{"discovery": ""}}
	for i := range targets {
		unbound.sets[prefix(name(i))+"auth"] = ""
	}
	return a.model.run(unbound, func(context.Context) error {
		return a.model.run(c, func(ctx context.Context) error { return a.m.RemoveAccount(ctx, acc.Name) })
	})
}

// portalComes adds a portal, or removes one that is saved.
func (a *administrator) portalComes() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	list := a.m.Portals()
	for _, p := range list {
		if p.Spec.Group == 2 && len(list) > 2 {
			return a.m.RemovePortal(ctx, p.Bound)
		}
	}
	p, err := a.m.AddPortal(ctx, spec.Portal{Address: "127.0.0.1:0", Group: 2})
	if err == nil && p.Bound == (netip.AddrPort{}) {
		err = errors.New("a portal that is bound to nothing")
	}
	return err
}

// look reads everything.
func (a *administrator) look() error {
	d := a.m.Document()
	if err := d.Check(); err != nil {
		return fmt.Errorf("a document that cannot be: %w", err)
	}
	for _, t := range a.m.Targets(true) {
		for _, l := range t.Live.LUNs {
			if l.Queued < 0 {
				return fmt.Errorf("target %s LUN %d: %d commands under way", t.Spec.Name, l.LUN, l.Queued)
			}
		}
		if len(t.Faults) != 0 {
			return fmt.Errorf("target %s: volumes that could not be opened: %v", t.Spec.Name, t.Faults)
		}
	}
	a.m.System()
	return nil
}
