package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/target"
)

// A disk is what stands behind one LUN.
type disk struct {
	e   *entry
	lun uint16
	key string // of its volume; empty: nobody else can have it
	// identity is what is set as that; written before others can find the disk, then read-only.
	identity string
	// unit is the one of those with the same logical unit that has opened the volume; nil: there is no volume. Set by claim, then read-only.
	unit  *disk
	store backstore.Store // the open volume, of the one that opened it; nil: there is none. Set before there is.
	try   *try            // of a LUN that is there without its volume, while that is tried again; set before it is
	// Guarded by Manager.mu.
	there  bool // the logical unit is there; false: it comes, or goes
	going  bool // its store is about to be closed: nothing more is begun with that
	faulty bool // its volume could not be opened
}

// volumeKey tells whether two LUNs are of one volume, as its driver says (backstore.Registry.Key); empty: each is a volume of its own, or there is
// none.
func (m *Manager) volumeKey(volume string) string {
	u, err := backstore.ParseURI(volume)
	if err != nil {
		return ""
	}
	return m.cfg.Registry.Key(u)
}

// diskConfig says in the server's words what l is.
func (m *Manager) diskConfig(e *entry, l *spec.LUN) scsi.DiskConfig {
	cfg := scsi.DiskConfig{Away: m.faulty(e, l.Number) && !l.Offline, Vendor: l.Vendor, Product: l.Product, Revision: l.Revision, Serial: l.Serial, Identity: l.Identity,
		LogicalBlock: l.BlockSize, PhysicalBlock: l.PhysicalBlock, ReadOnly: l.ReadOnly && l.Tgt == nil, Removable: l.Removable,
		Thin: l.Thin, WriteCache: l.WriteCache, DescriptorSense: l.DescriptorSense, ModePages: l.ModePages,
		RotationRate: l.RotationRate, LowestAligned: l.LowestAligned, OptimalGranularity: l.OptimalGranularity, OptimalLength: l.OptimalLength,
		Timeout: time.Duration(l.Timeout) * time.Second,
		NoUnmap: l.NoUnmap, NoWriteSame: l.NoWriteSame, NoCompareAndWrite: l.NoCompareAndWrite}
	if l.OnTimeout == spec.TimeoutError {
		cfg.OnTimeout = scsi.TimeoutError
	}
	if l.TgtNaming {
		cfg.TgtNaming, cfg.TID, cfg.SCSIID = true, e.tid, l.SCSIID
		if cfg.Identity == "" {
			// What is shown comes of the numbers of target and LUN. This one tells sessions, and saved reservations, whether a
			// number stands for another volume than before.
			volume, _, _ := strings.Cut(l.Volume, "?")
			switch key := m.volumeKey(l.Volume); {
			case key == "":
				volume = fmt.Sprintf("%s of target %d LUN %d", volume, e.tid, l.Number) // each is a volume of its own
			case key != m.volumeKey(volume):
				volume += " " + shortHash(key) // which one it is lies in its options
			}
			cfg.Identity = "tgt volume " + volume
		}
	}
	return cfg
}

// A pending is a LUN that is ready to be put in its place: Commit or Abort must follow.
type pending struct {
	m    *Manager
	d    *disk
	put  *target.PendingDisk
	live *target.Target
}

// prepare does all of putting l behind its number that can fail. The holder of e's turn calls it. l's identity is completed. A volume that
// is another LUN's already becomes a further way to that logical unit.
func (m *Manager) prepare(ctx context.Context, e *entry, live *target.Target, l *spec.LUN, force bool) (*pending, error) {
	var u *backstore.URI
	d := &disk{e: e, lun: l.Number}
	if l.Volume != "" {
		var err error
		if u, err = backstore.ParseURI(l.Volume); err != nil {
			return nil, Errorf(Invalid, "%s: %w", d, err)
		}
		d.key = m.cfg.Registry.Key(u)
	}
	other, err := m.claim(d, nil)
	if err != nil {
		return nil, err
	}
	p := &pending{m: m, d: d, live: live}
	if other != nil {
		err = p.share(other, l, force)
	} else {
		err = p.open(ctx, u, l, force)
	}
	if err != nil {
		m.release(d)
		return nil, err
	}
	return p, nil
}

func (d *disk) String() string { return fmt.Sprintf("target %s LUN %d", d.e.name, d.lun) }

// claim enters d among those who have its volume, and returns one that has it already. old, if there is one, is to make room for d, and has its volume until it is
// released.
func (m *Manager) claim(d, old *disk) (*disk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d.key == "" {
		return nil, nil
	}
	if w := m.shutLocked(d.key); w != nil {
		return nil, &Error{Code: VolumeBusy, Text: fmt.Sprintf("%s: %s", d, w), Hint: "try again when it is done"}
	}
	var other *disk
	for _, o := range m.volumes[d.key] {
		switch {
		case o == old:
		case !o.there && o.e != d.e, o.going: // one that comes to d's own target is part of the same change
			return nil, &Error{Code: OpenFailed, Text: fmt.Sprintf("%s: the volume is being opened or closed for %s", d, o), Hint: "try again"}
		case !o.faulty:
			other = o
		}
	}
	if d.unit = d; other != nil {
		d.unit = other.unit
	}
	m.volumes[d.key] = append(m.volumes[d.key], d)
	return other, nil
}

// release takes d from among those who have its volume.
func (m *Manager) release(d *disk) {
	if d == nil || d.key == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	left := slices.DeleteFunc(m.volumes[d.key], func(o *disk) bool { return o == d })
	if m.volumes[d.key] = left; len(left) == 0 {
		delete(m.volumes, d.key)
	}
}

// open opens the volume and makes the logical unit.
func (p *pending) open(ctx context.Context, u *backstore.URI, l *spec.LUN, force bool) error {
	var st backstore.Store
	var own string
	if u != nil {
		var err error
		if st, err = p.m.openVolume(ctx, u, p.d, l, false); err != nil {
			return &Error{Code: OpenFailed, Err: fmt.Errorf("%s: %s: %w", p.d, shown(l.Volume), err)}
		}
		own, p.d.store = st.Info().Identity, st
	}
	if l.Identity == "" && !l.TgtNaming {
		// The volume's own name is saved, too: the disk is still the same one when the volume cannot be opened.
		l.Identity = cmp.Or(own, p.passingName(p.d.key), rand.Text())
	}
	p.d.identity = l.Identity
	cfg := p.m.diskConfig(p.d.e, l)
	var err error
	p.put, err = p.live.PrepareDisk(l.Number, st, cfg, target.PutOptions{Force: force, Offline: l.Offline})
	return coded(err, Invalid)
}

// passingName names a disk that is of this run only and whose engine names its volume by nothing lasting. A target name is unique in the
// world (RFC 7143 §4.2.7), and what it calls a LUN stays the same disk as long as the command line does. Where nothing is saved a file may
// say the same in the next run, and another volume behind that LUN in this one: there the volume's name is part of the disk's. Empty: it
// can be saved, or there is no telling, as with new memory.
func (p *pending) passingName(key string) string {
	switch {
	case key == "":
		return ""
	case p.d.e.passing:
		return fmt.Sprintf("%s/%d", p.d.e.norm, p.d.lun)
	case p.m.cfg.State == nil:
		return fmt.Sprintf("%s/%d/%s", p.d.e.norm, p.d.lun, shortHash(key))
	}
	return ""
}

// shortHash is a name for a volume's key that can be shown.
func shortHash(key string) string {
	h := sha256.Sum256([]byte(key))
	return hex.EncodeToString(h[:8])
}

// openVolume opens what stands behind a LUN. A disk of tgt's faces may become writable at any time, whatever it is now: its volume is opened
// for that, unless its URI says otherwise.
func (m *Manager) openVolume(ctx context.Context, u *backstore.URI, d *disk, l *spec.LUN, takeOver bool) (backstore.Store, error) {
	if st, err, begun := takeAhead(ctx, d, l.Volume); begun {
		return st, err
	}
	warn := func(line string) { m.log.Warn(line, "target", d.e.name, "lun", d.lun) }
	ctx, cancel := context.WithTimeoutCause(ctx, m.cfg.OpenTimeout, fmt.Errorf("not open within %v", m.cfg.OpenTimeout))
	defer cancel()
	st, err := m.cfg.Registry.Open(ctx, u, backstore.Options{ReadOnly: l.ReadOnly && l.Tgt == nil, TakeOver: takeOver, Warn: warn})
	if err == nil && m.cfg.Wrap != nil {
		st = m.cfg.Wrap(d.e.norm, d.lun, st)
	}
	return st, err
}

// join brings a target that has no disk yet onto the loop of whoever has the volume of what is to be its first. It is made anew there,
// which nobody sees: nobody is logged in.
func (m *Manager) join(ctx context.Context, e *entry, t *spec.Target, first *spec.LUN) error {
	with := t.Clone()
	with.LUNs = []spec.LUN{*first}
	on, err := m.loopFor(e, &with)
	if err != nil || on == nil || on.SharesLoop(e.live) {
		return err
	}
	acc := m.accountsNow()
	cfg := m.liveConfig(t, &acc)
	cfg.LoopOf = on
	if err := e.live.Remove(ctx, false); err != nil {
		return &Error{Code: Unsupported, Err: fmt.Errorf("target %s LUN %d: the volume is another target's already, and to share it the two have to be on one loop: %w", e.name, first.Number, err),
			Hint: "have the initiators of " + e.name + " log out first"}
	}
	live, refused := m.srv.AddTarget(t.Name, cfg)
	if refused != nil {
		// The other target has been removed meanwhile: this one lives on alone. If it cannot, the server is being closed.
		cfg.LoopOf = nil
		if live, err = m.srv.AddTarget(t.Name, cfg); err != nil {
			return coded(err, Internal)
		}
	}
	m.publish(e, t, nil, live)
	m.apply(e)
	if refused != nil {
		return &Error{Code: OpenFailed, Err: fmt.Errorf("target %s LUN %d: the volume is another target's, which is being removed: %w", e.name, first.Number, refused), Hint: "try again"}
	}
	return nil
}

// share makes the LUN a further way to another's logical unit.
func (p *pending) share(other *disk, l *spec.LUN, force bool) error {
	from := p.live
	if other.e != p.d.e {
		p.m.mu.RLock()
		from = other.e.live
		p.m.mu.RUnlock()
	}
	if from == nil {
		return &Error{Code: OpenFailed, Text: fmt.Sprintf("%s: the volume is %s's, which is being removed", p.d, other), Hint: "try again"}
	}
	put, err := p.live.PrepareShare(l.Number, from, other.lun, target.PutOptions{Force: force})
	if err != nil {
		return &Error{Code: Unsupported, Err: fmt.Errorf("%s: the volume is %s's already, and one volume has one logical unit: %w", p.d, other, err),
			Hint: "make the target anew with this LUN among those that it begins with, or restart the daemon: the two targets then share one loop"}
	}
	p.put = put
	l.Identity, p.d.identity = other.identity, other.identity
	return nil
}

// commit puts the LUN in its place. The holder of the target's turn calls it.
func (p *pending) commit() {
	p.put.Commit()
	p.m.mu.Lock()
	p.d.there = true
	p.m.mu.Unlock()
	p.d.e.disks[p.d.lun] = p.d
}

// abort gives the place back and closes the volume.
func (p *pending) abort() {
	ctx, cancel := context.WithTimeout(context.Background(), p.m.cfg.CloseTimeout)
	defer cancel()
	if p.d.faulty {
		p.m.fault(p.d.e, p.d.lun, nil)
	}
	if err := p.put.Abort(ctx); err != nil {
		p.m.log.Warn("a volume that was not to be used after all could not be closed in order", "target", p.d.e.name, "lun", p.d.lun, "error", err)
	}
	p.m.release(p.d)
}

func abortAll(list []*pending) {
	for _, p := range list {
		p.abort()
	}
}

// faultsLocked lists the LUNs of a target whose volume could not be opened.
func (m *Manager) faultsLocked(e *entry) map[uint16]string {
	var out map[uint16]string
	for n, why := range e.faults {
		if out == nil {
			out = map[uint16]string{}
		}
		out[n] = why
	}
	return out
}
