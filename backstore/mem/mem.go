package mem

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/lunar-iscsi/lunar/backstore"
)

const (
	pageShift = 16
	pageSize  = 1 << pageShift

	maxTransfer = 16 << 20
	maxInFlight = 1 << 16
	maxCAW      = 1 << 20
	// maxDiscard bounds the work of one Submit: 4096 pages are some 100 µs.
	maxDiscard = 4096 * pageSize
)

type page [pageSize]byte

// anchored stands for a page that WriteZeroes with KeepAllocated left: reserved, all zeroes, without
// memory of its own until it is written. Nobody writes to it.
var anchored page

// Config says what New makes.
type Config struct {
	Size      int64 // bytes, positive, a multiple of BlockSize
	BlockSize int   // a power of two; 0 means 1
	ReadOnly  bool
}

// A Store is one volume in memory. It is a backstore.Resizer too.
type Store struct {
	mu     sync.Mutex // Submit against Resize, Info and Close
	info   backstore.Info
	pages  map[int64]*page // by offset >> pageShift; absent pages are zeroes
	closed bool
	notice func(size int64) // told of a new size, or nil
}

// Driver returns the driver of the scheme "mem".
func Driver() backstore.Driver {
	return backstore.Driver{
		Scheme:  "mem",
		Help:    "mem:?size=64M — a disk in memory, taken as it is written, gone when closed",
		Options: []string{"size", "readonly"},
		Open: func(_ context.Context, u *backstore.URI, o backstore.Options) (backstore.Store, error) {
			size, err := u.Size("size", 0)
			if err != nil {
				return nil, &backstore.Error{Class: backstore.ClassRange, Op: "open", Cause: err}
			}
			ro, err := u.Bool("readonly", false)
			if err != nil {
				return nil, &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: err}
			}
			if size == 0 {
				return nil, &backstore.Error{Class: backstore.ClassRange, Op: "open", Cause: fmt.Errorf("%s needs a size, for example mem:?size=64M", u.Shown())}
			}
			return New(Config{Size: size, ReadOnly: ro || o.ReadOnly})
		},
	}
}

// New returns an empty store.
func New(c Config) (*Store, error) {
	if c.BlockSize == 0 {
		c.BlockSize = 1
	}
	if c.BlockSize < 0 || c.BlockSize > pageSize || c.BlockSize&(c.BlockSize-1) != 0 {
		return nil, &backstore.Error{Class: backstore.ClassRange, Op: "open",
			Cause: fmt.Errorf("block size %d is no power of two up to %d", c.BlockSize, pageSize)}
	}
	if c.Size <= 0 || c.Size%int64(c.BlockSize) != 0 {
		return nil, &backstore.Error{Class: backstore.ClassRange, Op: "open",
			Cause: fmt.Errorf("size %d is no positive multiple of the block size %d", c.Size, c.BlockSize)}
	}
	return &Store{
		pages: make(map[int64]*page),
		info: backstore.Info{
			Driver: "mem", Volume: "memory", Size: c.Size, BlockSize: c.BlockSize, PhysicalBlock: c.BlockSize,
			MaxTransfer: maxTransfer, MaxInFlight: maxInFlight, MemAlign: 1,
			Caps: backstore.CapFUA | backstore.CapDiscard | backstore.CapWriteZeroes | backstore.CapCompareAndWrite |
				backstore.CapAllocation | backstore.CapNoWaitRead | backstore.CapNoWaitWrite,
			ReadOnly: c.ReadOnly, Coherent: true, DiscardZeroes: true, DiscardGranularity: pageSize,
			MaxDiscard: maxDiscard, MaxCompareAndWrite: maxCAW, AtomicUnit: int64(c.BlockSize),
		},
	}, nil
}

// Info returns the snapshot.
func (s *Store) Info() backstore.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info
}

// Submit ends every request at once.
func (s *Store) Submit(r *backstore.Request) backstore.Outcome {
	s.mu.Lock()
	r.Err = s.do(r)
	s.mu.Unlock()
	return backstore.Done
}

func (s *Store) do(r *backstore.Request) error {
	if s.closed {
		return &backstore.Error{Class: backstore.ClassOffline, Op: r.Op.String(), Off: r.Off, Cause: backstore.ErrClosed}
	}
	if err := s.info.Check(r); err != nil {
		return err
	}
	switch r.Op {
	case backstore.Read:
		s.read(r.Buf, r.Off)
	case backstore.Write:
		s.write(r.Buf, r.Off)
	case backstore.Discard:
		s.zero(r.Off, r.Len, false)
	case backstore.WriteZeroes:
		s.zero(r.Off, r.Len, r.Flags&backstore.KeepAllocated != 0)
	case backstore.CompareAndWrite:
		return s.compareAndWrite(r)
	case backstore.Allocation:
		s.allocation(r)
	}
	return nil
}

func (s *Store) read(buf []byte, off int64) {
	for len(buf) > 0 {
		in := int(off & (pageSize - 1))
		n := min(len(buf), pageSize-in)
		if p := s.pages[off>>pageShift]; p != nil {
			copy(buf[:n], p[in:])
		} else {
			clear(buf[:n])
		}
		buf, off = buf[n:], off+int64(n)
	}
}

func (s *Store) write(buf []byte, off int64) {
	for len(buf) > 0 {
		in := int(off & (pageSize - 1))
		n := min(len(buf), pageSize-in)
		p := s.pages[off>>pageShift]
		if p == nil || p == &anchored {
			p = new(page)
			s.pages[off>>pageShift] = p
		}
		copy(p[in:], buf[:n])
		buf, off = buf[n:], off+int64(n)
	}
}

// zero makes the range read as zeroes. Whole pages are given back, or anchored with keep.
func (s *Store) zero(off, n int64, keep bool) {
	for n > 0 {
		no, in := off>>pageShift, off&(pageSize-1)
		m := min(n, pageSize-in)
		p := s.pages[no]
		switch {
		case keep && (p == nil || m == pageSize):
			s.pages[no] = &anchored
		case p == nil || p == &anchored && m < pageSize:
			// Zeroes already.
		case m == pageSize:
			delete(s.pages, no)
		default:
			clear(p[in : in+m])
		}
		off, n = off+m, n-m
	}
}

func (s *Store) compareAndWrite(r *backstore.Request) error {
	off, want := r.Off, r.Compare
	for len(want) > 0 {
		in := int(off & (pageSize - 1))
		n := min(len(want), pageSize-in)
		p := s.pages[off>>pageShift]
		if p == nil {
			p = &anchored
		}
		if have := p[in : in+n]; !bytes.Equal(have, want[:n]) {
			i := 0
			for have[i] == want[i] {
				i++
			}
			return &backstore.Error{Class: backstore.ClassMiscompare, Op: r.Op.String(), Off: off - r.Off + int64(i)}
		}
		want, off = want[n:], off+int64(n)
	}
	s.write(r.Buf, r.Off)
	return nil
}

// allocation describes the range page by page, neighbours of one state joined. It looks at no more
// pages than one discard may touch; the answer may end early, as the contract allows.
func (s *Store) allocation(r *backstore.Request) {
	off, end := r.Off, r.Off+min(r.Len, maxDiscard)
	if len(s.pages) == 0 {
		end = r.Off + r.Len
	}
	for off < end {
		state, next := backstore.Deallocated, end
		if len(s.pages) > 0 {
			next = min(end, (off>>pageShift+1)<<pageShift)
			switch s.pages[off>>pageShift] {
			case nil:
			case &anchored:
				state = backstore.Anchored
			default:
				state = backstore.Mapped
			}
		}
		if k := len(r.Extents); k > 0 && r.Extents[k-1].State == state && r.Extents[k-1].Off+r.Extents[k-1].Len == off {
			r.Extents[k-1].Len += next - off
		} else if k < cap(r.Extents) {
			r.Extents = append(r.Extents, backstore.Extent{Off: off, Len: next - off, State: state})
		} else {
			return
		}
		off = next
	}
}

// Resize grows or shrinks the volume; what is cut off is gone.
func (s *Store) Resize(_ context.Context, size int64) error {
	notice, err := s.resize(size)
	if err == nil && notice != nil {
		notice(size)
	}
	return err
}

// WatchSize has changed called after each Resize: a program that embeds lunar may keep the store and resize it itself.
func (s *Store) WatchSize(changed func(size int64)) {
	s.mu.Lock()
	s.notice = changed
	s.mu.Unlock()
}

func (s *Store) resize(size int64) (notice func(int64), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, &backstore.Error{Class: backstore.ClassOffline, Op: "resize", Cause: backstore.ErrClosed}
	}
	if size <= 0 || size%int64(s.info.BlockSize) != 0 {
		return nil, &backstore.Error{Class: backstore.ClassRange, Op: "resize", Cause: fmt.Errorf("size %d is no positive multiple of %d", size, s.info.BlockSize)}
	}
	if s.info.ReadOnly {
		return nil, &backstore.Error{Class: backstore.ClassReadOnly, Op: "resize"}
	}
	for no, p := range s.pages {
		start := no << pageShift
		switch {
		case start >= size:
			delete(s.pages, no)
		case p != &anchored && size-start < pageSize:
			clear(p[size-start:])
		}
	}
	s.info.Size = size
	return s.notice, nil
}

// Close drops the contents.
func (s *Store) Close(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.pages = true, nil
	return nil
}
