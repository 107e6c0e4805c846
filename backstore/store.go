package backstore

import (
	"context"
	"io"
)

// An Op is what a request asks for.
type Op uint8

// The operations.
const (
	Read            Op = iota + 1 // fill Buf from [Off, Off+Len)
	Write                         // store Buf at [Off, Off+Len)
	Flush                         // make every write completed before durable; Off and Len are 0; without CapFlush it ends at once
	Discard                       // give the range back; its contents become zeroes only with Info.DiscardZeroes
	WriteZeroes                   // the range reads as zeroes afterwards
	CompareAndWrite               // compare [Off, Off+Len) with Compare and, if equal, store Buf; atomic
	Allocation                    // describe [Off, Off+Len) in Extents
)

var opNames = [...]string{Read: "read", Write: "write", Flush: "flush", Discard: "discard", WriteZeroes: "write zeroes",
	CompareAndWrite: "compare and write", Allocation: "allocation query"}

func (o Op) String() string {
	if int(o) < len(opNames) && opNames[o] != "" {
		return opNames[o]
	}
	return "unknown operation"
}

// Flags modify a request.
type Flags uint8

// The flags.
const (
	// FUA on Write, WriteZeroes, Discard and CompareAndWrite: durable, with the metadata needed
	// to read it, when completed. On Read: what the range holds is durable before it is read.
	// Only where Info.Caps has CapFUA.
	FUA Flags = 1 << iota
	// NoWait on Read and Write: end within Submit or answer WouldBlock, having kept nothing and
	// changed nothing in the volume (a Read's buffer may have been scribbled on). Worth trying where
	// Info.Caps has CapNoWaitRead or CapNoWaitWrite; elsewhere the answer is always WouldBlock.
	// Other operations ignore it.
	NoWait
	// KeepAllocated on WriteZeroes: the range must stay allocated (no hole is punched).
	KeepAllocated
	// DPO: the range is not expected to be used again soon. A hint.
	DPO
)

// An Outcome is Submit's answer.
type Outcome uint8

// The outcomes.
const (
	// Done: the request has ended and r.Err says how. Complete is not called.
	Done Outcome = iota
	// Pending: r.C.Complete(r) will be called, exactly once, from any goroutine, possibly
	// before Submit returns. Until then the request and its buffers are the driver's.
	Pending
	// WouldBlock: only for a request with NoWait. Nothing was kept or changed; submit again
	// without the flag.
	WouldBlock
)

// A Completer learns that a pending request ended. Complete must not block and may be
// called from any goroutine.
type Completer interface {
	Complete(r *Request)
}

// An Extent is one run of an allocation answer.
type Extent struct {
	Off, Len int64 // bytes
	State    AllocState
}

// AllocState says what backs an extent.
type AllocState uint8

// The states.
const (
	Mapped      AllocState = iota // holds data, or may
	Deallocated                   // a hole: reads as zeroes if Info.DiscardZeroes
	Anchored                      // space is reserved, reads as zeroes
)

// A Request is one I/O. The caller fills the first block and hands the request over with
// Submit; nobody but the driver touches it until it has ended (see Outcome). Buffers belong
// to the caller before and after.
type Request struct {
	Op    Op
	Flags Flags
	Off   int64  // bytes, a multiple of Info.BlockSize
	Len   int64  // bytes, a multiple of Info.BlockSize
	Buf   []byte // Read: len == Len, filled; Write, CompareAndWrite: len == Len, read-only
	// Compare is what CompareAndWrite expects, len == Len, read-only.
	Compare []byte
	// Extents receives an Allocation answer: appended to up to its capacity, in ascending order, starting at
	// Off, without gaps; it may end before Off+Len when the capacity is used up.
	Extents []Extent
	C       Completer

	// Err is nil or an *Error, final once the request has ended. After an error a Read's
	// buffer holds nothing that counts.
	Err error

	// Owner is the caller's own; drivers leave it alone.
	Owner any
	// Next and Slot are the driver's while it has the request: an intrusive list and a word
	// of its own, so that queueing allocates nothing.
	Next *Request
	Slot uint64
}

// Caps says which optional operations and flags a store carries out.
type Caps uint16

// The capabilities.
const (
	CapFlush           Caps = 1 << iota // Flush is meaningful (a volatile cache is behind)
	CapFUA                              // the FUA flag
	CapDPO                              // the DPO flag has an effect
	CapDiscard                          // Discard
	CapWriteZeroes                      // WriteZeroes (else the LU writes zeroes)
	CapCompareAndWrite                  // CompareAndWrite within Info.MaxCompareAndWrite
	CapAllocation                       // Allocation
	CapNoWaitRead                       // Read with NoWait often ends at once
	CapNoWaitWrite                      // Write with NoWait often ends at once
	// CapCancel: the store is a Canceler.
	CapCancel
)

// Info is a snapshot of what a store is. Everything in it is true: a capability that is only
// sometimes there is absent.
type Info struct {
	Driver string // the URI scheme
	Volume string // the volume in the engine's words, for people: a path, pool/image
	// Identity names the volume for ever, on any host and by any path; empty where the engine
	// has none (then the LU's saved state keeps one). Never derived from a path.
	Identity string

	Size          int64 // bytes
	BlockSize     int   // every Off and Len is a multiple; a power of two, 1 allowed
	PhysicalBlock int   // bytes; writes of less are read-modify-write in the engine
	OptimalIO     int   // bytes; 0 unknown
	MaxTransfer   int64 // bytes of one Read, Write or CompareAndWrite buffer
	MaxInFlight   int   // requests that may be pending at once
	MemAlign      int   // required alignment of Buf in memory; 1 for none

	Caps               Caps
	ReadOnly           bool
	Rotational         bool
	Coherent           bool  // other openers see a completed write at once
	DiscardZeroes      bool  // a discarded range reads as zeroes
	DiscardGranularity int64 // bytes; 0 unknown
	MaxDiscard         int64 // bytes of one Discard or WriteZeroes; 0: no limit but Size
	MaxCompareAndWrite int64 // bytes
	AtomicUnit         int64 // a failed or interrupted Write leaves each aligned unit old or new; 0: nothing is promised
	Shared             bool  // other openers may write the volume at the same time
}

// Has reports whether every capability of c is there.
func (i *Info) Has(c Caps) bool { return i.Caps&c == c }

// A Store is one open volume. Except for Close, one goroutine at a time calls it: the loop
// that owns the LU (or a test).
//
// A completed Write is seen by every later Submit. No order holds among requests in flight; the
// caller keeps overlapping ones apart. A completed Flush covers every write completed before it
// was submitted. A failed Flush or FUA write makes the store failed: from then on
// every Write, WriteZeroes, Discard, CompareAndWrite and Flush answers ClassMedium until it is opened anew.
// Completing with an error promises that the request will not be applied later; a driver that
// cannot promise that does not complete.
type Store interface {
	// Info returns the snapshot. It is cheap and never blocks.
	Info() Info
	// Submit starts r. It never blocks and never calls back into the caller. A request
	// outside Info (bounds, multiples, capabilities) ends at once with ClassRange,
	// ClassUnsupported or ClassReadOnly.
	Submit(r *Request) Outcome
	// Close flushes and releases the volume, waiting for requests in flight. When ctx ends
	// first it returns an *Error of ClassBusy and the store is orphaned: what is held goes when the last
	// request ends. It may be called from any goroutine once no more is submitted.
	Close(ctx context.Context) error
}

// A Kicker wants to know where a batch of Submits ends, to make one system call or one packet
// of it. The loop calls Kick after each batch with at least one Pending.
type Kicker interface{ Kick() }

// A Loop is what an event loop offers to a driver. Its methods are called on the loop (or with its
// lock held); ready runs there too.
type Loop interface {
	// Watch calls ready whenever fd is readable, until the returned stop is called.
	Watch(fd int, ready func()) (stop func(), err error)
	// Shared returns the loop's one value for key, making it on first use. It is closed
	// with the loop.
	Shared(key any, make func(Loop) (io.Closer, error)) (io.Closer, error)
}

// An Attacher has completions that the loop can collect itself. Attach is called once before
// the first Submit; Detach, on the same loop, after the last request ended and before Close. Of a store
// whose requests do not end, Close is called first (and gives up); Detach may then follow it, or never come.
type Attacher interface {
	Attach(Loop) error
	Detach()
}

// A Canceler can try to take a pending request back. True promises that it will not be applied
// (any more than it has been) and that Complete follows at once with ClassCancelled; false promises nothing.
type Canceler interface{ Cancel(r *Request) bool }

// A Resizer grows or shrinks the volume, which Info then says. size is a positive multiple of Info.BlockSize, else it is ClassRange. What a
// volume gains reads as zeroes. Shrinking cuts off what lies behind the new end; the caller has seen to it that nobody uses it, and
// submits nothing there any more. It may run beside Submit, and is never called on a loop.
type Resizer interface {
	Resize(ctx context.Context, size int64) error
}

// A Sizer is a store whose volume may have been given another size behind it. Neither method changes the volume, and neither is called on
// a loop.
type Sizer interface {
	// PresentSize asks the engine for the size that the volume has by now, in bytes. Info stays as it was.
	PresentSize(ctx context.Context) (int64, error)
	// AdoptSize makes size, a positive multiple of Info.BlockSize and not above the present one, that of Info. It may run beside Submit.
	AdoptSize(ctx context.Context, size int64) error
}

// A SizeWatcher calls changed, from any goroutine, when the volume's size has changed behind the
// store; Info then has the new size. changed does not block. WatchSize is called once, before the first Submit.
type SizeWatcher interface {
	WatchSize(changed func(size int64))
}

// A Fencer shuts other openers out: on return nothing that they submitted will be applied. Never
// called on a loop.
type Fencer interface {
	Fence(ctx context.Context) error
}
