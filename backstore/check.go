package backstore

import (
	"errors"
	"fmt"
	"unsafe"
)

// ErrClosed is the cause of what a Submit after Close gets (with ClassOffline).
var ErrClosed = errors.New("the store is closed")

// Check says whether r keeps within i: a known operation that the store has, a range inside the
// volume in whole blocks, buffers of the right length and alignment. The error is an *Error of
// ClassRange, ClassUnsupported or ClassReadOnly. Every driver calls it first in Submit; it
// allocates only for an error. NoWait is not checked: where the capability is missing the
// driver answers WouldBlock.
func (i *Info) Check(r *Request) error {
	var need Caps
	limit := i.MaxTransfer
	switch r.Op {
	case Flush:
		if r.Off != 0 || r.Len != 0 {
			return i.rangeError(r, "a flush has no range")
		}
		return nil
	case Read, Write:
	case CompareAndWrite:
		need, limit = CapCompareAndWrite, min(i.MaxCompareAndWrite, i.MaxTransfer)
	case Discard:
		need, limit = CapDiscard, i.MaxDiscard
	case WriteZeroes:
		need, limit = CapWriteZeroes, i.MaxDiscard
	case Allocation:
		need, limit = CapAllocation, 0
	default:
		return &Error{Class: ClassUnsupported, Op: r.Op.String(), Off: r.Off, Cause: fmt.Errorf("operation number %d", r.Op)}
	}
	if r.Flags&FUA != 0 {
		need |= CapFUA
	}
	if i.Caps&need != need {
		return &Error{Class: ClassUnsupported, Op: r.Op.String(), Off: r.Off}
	}
	if i.ReadOnly && r.Op != Read && r.Op != Allocation {
		return &Error{Class: ClassReadOnly, Op: r.Op.String(), Off: r.Off}
	}
	// Written so that nothing wraps: Len is at most Size before it is subtracted from it.
	if r.Off < 0 || r.Len < 0 || r.Len > i.Size || r.Off > i.Size-r.Len {
		return i.rangeError(r, "outside the volume")
	}
	if limit != 0 && r.Len > limit {
		return i.rangeError(r, "longer than one request may be")
	}
	if (r.Off|r.Len)&int64(i.BlockSize-1) != 0 {
		return i.rangeError(r, "not in whole blocks")
	}
	if r.Op == Read || r.Op == Write || r.Op == CompareAndWrite {
		if int64(len(r.Buf)) != r.Len || (r.Op == CompareAndWrite && int64(len(r.Compare)) != r.Len) {
			return i.rangeError(r, "the buffer has another length")
		}
		if i.MemAlign > 1 && uintptr(unsafe.Pointer(unsafe.SliceData(r.Buf)))&uintptr(i.MemAlign-1) != 0 {
			return i.rangeError(r, "the buffer is not aligned in memory")
		}
	}
	return nil
}

func (i *Info) rangeError(r *Request, what string) error {
	return &Error{Class: ClassRange, Op: r.Op.String(), Off: r.Off,
		Cause: fmt.Errorf("%d bytes: %s (size %d, block %d)", r.Len, what, i.Size, i.BlockSize)}
}
