package null

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/lunar-iscsi/lunar/backstore"
)

// MaxSize is the largest volume: the last multiple of 512 that an int64 holds.
const MaxSize = 1<<63 - 512

const (
	blockSize   = 512
	maxTransfer = 64 << 20
	maxInFlight = 1 << 16
	defaultSize = 1 << 40
)

type store struct {
	info   atomic.Pointer[backstore.Info] // replaced by Resize
	closed atomic.Bool
}

// Driver returns the driver of the scheme "null".
func Driver() backstore.Driver {
	return backstore.Driver{
		Scheme:  "null",
		Help:    "null:?size=1T — reads zeroes, drops writes; size up to 2^63-512 bytes, a multiple of 512",
		Options: []string{"size", "readonly"},
		Open: func(_ context.Context, u *backstore.URI, o backstore.Options) (backstore.Store, error) {
			size, err := u.Size("size", defaultSize)
			if err != nil {
				return nil, &backstore.Error{Class: backstore.ClassRange, Op: "open", Cause: err}
			}
			ro, err := u.Bool("readonly", false)
			if err != nil {
				return nil, &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: err}
			}
			return New(size, ro || o.ReadOnly)
		},
	}
}

// New returns a null store of size bytes, which is a positive multiple of 512 up to MaxSize.
func New(size int64, readOnly bool) (backstore.Store, error) {
	if err := checkSize("open", size); err != nil {
		return nil, err
	}
	s := &store{}
	s.info.Store(&backstore.Info{
		Driver: "null", Volume: "null", Size: size, BlockSize: blockSize, PhysicalBlock: blockSize,
		MaxTransfer: maxTransfer, MaxInFlight: maxInFlight, MemAlign: 1,
		Caps: backstore.CapFUA | backstore.CapDiscard | backstore.CapWriteZeroes | backstore.CapAllocation |
			backstore.CapNoWaitRead | backstore.CapNoWaitWrite,
		ReadOnly: readOnly, Coherent: true, DiscardZeroes: true, DiscardGranularity: blockSize, AtomicUnit: blockSize,
	})
	return s, nil
}

func checkSize(op string, size int64) error {
	if size <= 0 || size%blockSize != 0 {
		return &backstore.Error{Class: backstore.ClassRange, Op: op, Cause: fmt.Errorf("size %d is no positive multiple of %d", size, blockSize)}
	}
	return nil
}

// Resize says another size from now on.
func (s *store) Resize(_ context.Context, size int64) error {
	if s.closed.Load() {
		return &backstore.Error{Class: backstore.ClassOffline, Op: "resize", Cause: backstore.ErrClosed}
	}
	if err := checkSize("resize", size); err != nil {
		return err
	}
	i := *s.info.Load()
	i.Size = size
	s.info.Store(&i)
	return nil
}

func (s *store) Info() backstore.Info { return *s.info.Load() }

// Submit ends every request at once.
func (s *store) Submit(r *backstore.Request) backstore.Outcome {
	if s.closed.Load() {
		r.Err = &backstore.Error{Class: backstore.ClassOffline, Op: r.Op.String(), Off: r.Off, Cause: backstore.ErrClosed}
		return backstore.Done
	}
	if r.Err = s.info.Load().Check(r); r.Err != nil {
		return backstore.Done
	}
	switch r.Op {
	case backstore.Read:
		clear(r.Buf)
	case backstore.Allocation:
		if r.Len > 0 && len(r.Extents) < cap(r.Extents) {
			r.Extents = append(r.Extents, backstore.Extent{Off: r.Off, Len: r.Len, State: backstore.Deallocated})
		}
	}
	return backstore.Done
}

// Close has nothing to wait for.
func (s *store) Close(context.Context) error {
	s.closed.Store(true)
	return nil
}
