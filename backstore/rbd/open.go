//go:build rbd && cgo

package rbd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"

	"github.com/ceph/go-ceph/rbd"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/rbd/internal/librbd"
)

// What an image is in lunar's terms.
const (
	blockSize     = 512       // what compare and write works in; librbd itself would take any number of bytes
	physicalBlock = 4 << 10   // the least that Ceph's disks allocate and check
	maxTransfer   = 32 << 20  // bytes; librbd cuts a request into objects
	maxZero       = 1 << 30   // bytes of one discard or write zeroes: one request an object
	compareBytes  = blockSize // Ceph 16 compares no more at once; later ones no more than lies within an object
	defGranule    = 64 << 10  // rbd_discard_granularity_bytes
)

// openStore connects, takes the lock and opens the image.
func openStore(ctx context.Context, c *config, o backstore.Options) (_ *Store, err error) {
	cl, err := connect(ctx, c)
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: c, cl: cl, warn: o.Warn, volatile: c.cache != "", locked: c.lock != lockNone && !c.readOnly, poke: make(chan struct{}, 1),
		slots: make([]slot, c.inFlight), free: make([]uint16, c.inFlight)}
	if s.warn == nil {
		s.warn = func(string) {}
	}
	for i := range s.free {
		s.free[i] = uint16(len(s.free) - 1 - i)
	}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	if s.ring, err = librbd.NewRing(c.inFlight); err != nil {
		return nil, &backstore.Error{Class: backstore.ClassInternal, Op: "open", Cause: err}
	}
	if o.TakeOver {
		if err = cl.shutOut(ctx, c, ""); err != nil {
			return nil, err
		}
	}
	if err = s.openImage(ctx); err != nil {
		return nil, err
	}
	if err = s.describe(); err != nil {
		return nil, err
	}
	if !c.readOnly {
		if s.watch, err = s.img.Watch(s.ring); err != nil {
			return nil, failed("open", "watching the image "+c.spec.String(), err)
		}
		s.watching = true
		s.control.Add(1)
		go s.mind()
	}
	return s, cl.steady()
}

// errQuicker is that somebody has taken the lock between our look at the image and our opening it.
var errQuicker = errors.New("it has just been locked by another client")

// openImage opens the image, and takes its lock.
func (s *Store) openImage(ctx context.Context) error {
	for {
		err := s.tryImage(ctx)
		if s.cfg.lock != lockWait || !errors.Is(err, errQuicker) {
			return err
		}
		err = s.img.Close()
		s.img = nil
		if err != nil {
			return failed("open", "closing image "+s.cfg.spec.String(), err)
		}
	}
}

func (s *Store) tryImage(ctx context.Context) (err error) {
	c := s.cfg
	if s.locked {
		if err = s.cl.alone(ctx, c); err != nil {
			return err
		}
	}
	if s.img, err = librbd.Open(s.cl.io.Pointer(), c.image, c.snap, c.readOnly); err != nil {
		if errors.Is(err, syscall.ENOENT) {
			return noImage(c.spec)
		}
		return failed("open", "image "+c.spec.String(), err)
	}
	if c.readOnly {
		return nil
	}
	features, err := s.img.Features()
	if err != nil {
		return failed("open", "image "+c.spec.String(), err)
	}
	lockable := features&rbd.FeatureExclusiveLock != 0
	switch {
	case !s.locked && lockable:
		s.warn(c.spec.String() + ": each write of another opener takes the image's exclusive lock away and each of ours brings it back; `rbd feature disable " +
			c.spec.String() + " exclusive-lock` (with object-map and fast-diff) ends that")
		return nil
	case !s.locked:
		return nil
	case !lockable:
		return &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: fmt.Errorf("image %s has no exclusive lock to keep a second writer out: "+
			"`rbd feature enable %s exclusive-lock`, or open it with lock=none and see to that yourself", c.spec, c.spec)}
	}
	if err = s.img.LockAcquire(); err != nil {
		if n, _ := errnoOf(err); n == syscall.EROFS || n == syscall.EBUSY {
			return &backstore.Error{Class: backstore.ClassBusy, Op: "open", Cause: fmt.Errorf("image %s: %w", c.spec, errQuicker)}
		}
		return failed("open", "locking image "+c.spec.String(), err)
	}
	s.claim()
	return nil
}

func noImage(s spec) error {
	return &backstore.Error{Class: backstore.ClassNotFound, Op: "open", Cause: fmt.Errorf("there is no image %s", s)}
}

// cached finds out whether librbd has a cache: the image's own configuration, and its pool's, go before what the URI says.
func (s *Store) cached() error {
	c := s.cfg
	for name, off := range map[string]string{"rbd_cache": "false", "rbd_persistent_cache_mode": "disabled"} {
		now, err := s.img.Config(name)
		switch {
		case errors.Is(err, syscall.ENOENT): // this librbd does not have it
		case err != nil:
			return failed("open", "asking for "+name+" of image "+c.spec.String(), err)
		case now == off || s.volatile:
		case !s.locked && !c.readOnly:
			return &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: fmt.Errorf("image %s is shared, and %s=%s is set of it, or of its pool: "+
				"that would hide what others write; `rbd config image set %s %s %s`", c.spec, name, now, c.spec, name, off)}
		default:
			s.volatile = true
			s.warn(fmt.Sprintf("%s has a cache, since %s=%s is set of the image or of its pool", c.spec, name, now))
		}
	}
	return nil
}

// number is a configuration value of the image that is a number.
func (s *Store) number(name string, def int64) int64 {
	v, err := s.img.Config(name)
	if err != nil {
		return def
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n <= 0 {
		return def
	}
	return n
}

// describe fills in Info.
func (s *Store) describe() error {
	c := s.cfg
	size, err := s.img.Size()
	if err != nil {
		return failed("open", "asking for the size", err)
	}
	id, err := s.img.ID()
	if err != nil {
		return failed("open", "asking for the image's id", err)
	}
	object, err := s.img.ObjectSize()
	if err != nil {
		return failed("open", "asking for the size of objects", err)
	}
	stripe, err := s.img.StripeUnit()
	if err != nil {
		return failed("open", "asking for the stripe unit", err)
	}
	if size < blockSize {
		return &backstore.Error{Class: backstore.ClassRange, Op: "open", Cause: fmt.Errorf("image %s has %d bytes: less than a block of %d", c.spec, size, blockSize)}
	}
	if err := s.cached(); err != nil {
		return err
	}
	granule := s.number("rbd_discard_granularity_bytes", defGranule)
	granule = min(max(granule, physicalBlock), object)
	identity := "rbd:" + s.cl.fsid + "/" + strconv.FormatInt(s.cl.pool, 10) + "/" + id
	if c.snap != "" {
		identity += "@" + c.snap
	}
	s.info = backstore.Info{Driver: "rbd", Volume: c.spec.String(), Identity: identity, Size: size &^ (blockSize - 1),
		BlockSize: blockSize, PhysicalBlock: physicalBlock, OptimalIO: int(min(object, 4<<20)), MaxTransfer: maxTransfer, MaxInFlight: c.inFlight, MemAlign: 1,
		Caps:     backstore.CapFUA | backstore.CapDPO | backstore.CapDiscard | backstore.CapWriteZeroes | backstore.CapAllocation,
		ReadOnly: c.readOnly, Coherent: !s.volatile, DiscardGranularity: granule, MaxDiscard: maxZero, Shared: !s.locked && c.snap == ""}
	if s.volatile {
		s.info.Caps |= backstore.CapFlush
	} else {
		// One operation on one object is carried out as a whole or not at all; the cache cuts writes up as it likes, and does not take part in
		// compare and write.
		s.info.AtomicUnit = max(stripe&-stripe, blockSize)
		s.info.Caps |= backstore.CapCompareAndWrite
		s.info.MaxCompareAndWrite = compareBytes
	}
	s.told = s.info.Size
	return nil
}
