package scsi

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// Changes of a disk that is there. Each is worked out as a whole before any of it takes effect; nexuses hear of it by what they would be
// told otherwise than before. Registrations, reservations and commands stay.

// A DiskUpdate is what a disk is to be from now on.
type DiskUpdate struct {
	// Config is all of the configuration, with what is to change changed. Identity and LogicalBlock cannot change (zero: as it was). What the
	// host sets when it makes the disk stays as it was, whatever Config says: the names of target and LUN, Functions, Persistence. Mode
	// parameters change where their field does, so that those that MODE SELECT has set stay otherwise.
	Config DiskConfig
	// Online: there is a medium, and it may be used. See LU.SetOnline.
	Online bool
	// Force takes the medium away also where a nexus prevents that.
	Force bool
}

// A Change is a DiskUpdate that has been found possible.
type Change struct {
	sh      *shape
	cfg     DiskConfig
	initial modes
	modes   modes
	online  bool
	force   bool
}

// Through reports whether the volatile cache is in use and will not be from now on: what it holds has to be made durable before the
// change is carried out. See LU.Flush.
func (ch *Change) Through(lu *LU) bool {
	return ch.modes.writeThrough && !lu.modes.writeThrough && !lu.unready
}

// Plan works out a change of the disk. Nothing has changed by that. The plan holds until the disk is changed.
func (lu *LU) Plan(u *DiskUpdate) (*Change, error) {
	cfg, was := u.Config, &lu.cfg
	if cfg.Identity != "" && cfg.Identity != was.Identity {
		return nil, fmt.Errorf("the identity of a disk stays: it is %q, not %q", was.Identity, cfg.Identity)
	}
	if cfg.LogicalBlock == 0 {
		cfg.LogicalBlock = int(lu.blockSize)
	}
	if cfg.LogicalBlock != int(lu.blockSize) {
		return nil, fmt.Errorf("the logical block of a disk stays: it has %d bytes, not %d", lu.blockSize, cfg.LogicalBlock)
	}
	cfg.Identity, cfg.TargetName, cfg.LUN, cfg.TargetPortGroup, cfg.RelativePort = was.Identity, was.TargetName, was.LUN, was.TargetPortGroup, was.RelativePort
	cfg.Functions, cfg.Persistence, cfg.Reservations = was.Functions, nil, nil
	cfg.ModePages = slices.Clone(cfg.ModePages)
	sh, err := newShape(&cfg, &lu.info, lu.store != nil)
	if err != nil {
		return nil, err
	}
	initial, err := sh.initialModes(&cfg)
	if err != nil {
		return nil, err
	}
	if err := lu.mayBeOnline(u.Online, u.Force); err != nil {
		return nil, err
	}
	ch := &Change{sh: sh, cfg: cfg, initial: initial, modes: lu.modes, online: u.Online, force: u.Force}
	if !sameBool(cfg.WriteCache, was.WriteCache) || initial.writeThrough != lu.initial.writeThrough {
		ch.modes.writeThrough = initial.writeThrough
	}
	if cfg.DescriptorSense != was.DescriptorSense || initial.descriptorSense != lu.initial.descriptorSense {
		ch.modes.descriptorSense = initial.descriptorSense
	}
	if initial.protect != lu.initial.protect {
		ch.modes.protect = initial.protect
	}
	if initial.silentAbort != lu.initial.silentAbort {
		ch.modes.silentAbort = initial.silentAbort
	}
	return ch, nil
}

func sameBool(a, b *bool) bool { return a == b || a != nil && b != nil && *a == *b }

// Apply carries a change out. The error is SetOnline's; then nothing has changed.
func (lu *LU) Apply(ch *Change) error {
	if err := lu.mayBeOnline(ch.online, ch.force); err != nil {
		return err
	}
	lu.telling(func() {
		size := lu.info.Size // a volume that has changed its size by itself is followed meanwhile
		lu.shape, lu.cfg, lu.initial, lu.modes = *ch.sh, ch.cfg, ch.initial, ch.modes
		lu.info.Size, lu.blocks = size, uint64(size)>>lu.blockShift
		lu.modesChanged()
	})
	return lu.SetOnline(ch.online, ch.force)
}

// telling makes a change, and lets each nexus know what it is told otherwise from now on.
func (lu *LU) telling(change func()) {
	inquiry, capacity, mode := lu.images()
	change()
	newInquiry, newCapacity, newMode := lu.images()
	if !bytes.Equal(inquiry, newInquiry) {
		lu.Raise(sense.InquiryDataChanged, nil)
	}
	if !bytes.Equal(capacity, newCapacity) {
		lu.Raise(sense.CapacityChanged, nil)
	}
	if !bytes.Equal(mode, newMode) {
		lu.Raise(sense.ModeParametersChanged, nil)
	}
}

// images returns what initiators are told of the disk, in three parts by the unit attention that tells of a change: INQUIRY data with
// all pages, READ CAPACITY(16), and mode parameters.
func (lu *LU) images() (inquiry, capacity, mode []byte) {
	c := &Command{}
	inquiry = append(inquiry, lu.standardInquiry(c)...)
	for _, code := range lu.vpdList() {
		inquiry = lu.vpd(code)(lu, c, append(inquiry, code))
	}
	capacity = make([]byte, 32)
	lu.putCapacity(capacity)
	mode = append(mode, lu.deviceSpecific())
	for i := range modePages {
		mode = modePages[i].append(lu, mode, pageCurrent)
	}
	return inquiry, capacity, mode
}

// Flush makes everything durable that had been written when it was called. c is a command of the host's own, of which only
// Owner is set. Done: it has ended, with Status and Sense; Pending: Host.Done follows, or Abort.
func (lu *LU) Flush(c *Command) Outcome {
	c.Nexus, c.CDB, c.Attr, c.OutLen, c.Buf, c.NoWait = nil, nil, 0, 0, nil, false
	c.reset(lu)
	if !lu.caches() || lu.notReady(c) {
		return Done
	}
	// As a reader of the whole medium it waits for the writes that are under way.
	c.wholeMedium(lu, readSpan)
	c.plan = flushAfter
	return lu.begin(c)
}

// WriteThrough makes each write durable when it ends, whatever the mode parameters say, which stay as they are: for the time of a flush that
// goes ahead of a change.
func (lu *LU) WriteThrough(on bool) {
	lu.passing = on
	lu.modesChanged()
}

// A Medium is a store that a disk without its medium can be given.
type Medium struct {
	sh *shape
	st backstore.Store
}

// ErrOnline: the store of a disk whose medium can be used is not changed.
var ErrOnline = errors.New("the disk is online")

// PlanMedium works out what the disk would be on another store; nil: without one. Nothing has changed by that.
func (lu *LU) PlanMedium(st backstore.Store) (*Medium, error) {
	if !lu.unloaded {
		return nil, ErrOnline
	}
	var info backstore.Info
	if st != nil {
		info = st.Info()
	}
	if info.Shared && (len(lu.pr.regs) != 0 || lu.reserver != nil) {
		return nil, errors.New("there are reservations, which do not hold on a volume that others may write at the same time")
	}
	sh, err := newShape(&lu.cfg, &info, st != nil)
	if err != nil {
		return nil, err
	}
	return &Medium{sh, st}, nil
}

// SetMedium gives the disk another store. It is still to be brought online. No request of the store before may be under way, see
// InFlight: the host has waited for that. What has come for the medium before and is not carried out yet never will be.
func (lu *LU) SetMedium(m *Medium) {
	if !lu.unloaded || lu.flight != 0 {
		panic("scsi: the medium of a disk that uses it was changed")
	}
	lu.telling(func() {
		lu.shape = *m.sh
		lu.setStore(m.st)
		lu.failed, lu.fenced = false, false
		lu.epoch++
		lu.medium = lu.epoch
		lu.modesChanged()
	})
}
