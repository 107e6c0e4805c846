package file

import (
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A copier copies what holds data, and is used by many goroutines at once.
type copier struct {
	src, dst int
	byHand   atomic.Bool        // copy_file_range cannot
	step     func(string) error // of tests: before each span; may be nil
	buffers  sync.Pool
}

// copyBuffer is what is read at a time where the kernel does not copy by itself.
const copyBuffer = 256 << 10

// data returns where the first data at or behind off is: off itself where that is not known, else up to the end of the volume and beyond.
func (c *copier) data(off int64) int64 {
	next, err := unix.Seek(c.src, off, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return 1<<63 - pieceSize
	case err != nil || next < off:
		return off
	}
	return next
}

// span copies [off, end). The error is an errno of reading or writing.
func (c *copier) span(off, end int64) error {
	if c.step != nil {
		if err := c.step("span"); err != nil {
			return err
		}
	}
	for off < end {
		off = c.data(off)
		if off >= end {
			break
		}
		hole, err := unix.Seek(c.src, off, unix.SEEK_HOLE)
		if err != nil || hole <= off {
			hole = end
		}
		hole = min(hole, end)
		if err := c.run(off, hole); err != nil {
			return err
		}
		off = hole
	}
	return nil
}

// run copies [off, end), which is data.
func (c *copier) run(off, end int64) error {
	for off < end && !c.byHand.Load() {
		r, w := off, off
		n, err := unix.CopyFileRange(c.src, &r, c.dst, &w, int(end-off), 0)
		switch {
		case err == unix.EINTR:
		case err == unix.ENOSPC || err == unix.EDQUOT || err == unix.EIO:
			return err
		case err != nil || n == 0: // not on this file system, or not between these two
			c.byHand.Store(true)
		default:
			off += int64(n)
		}
	}
	if off == end {
		return nil
	}
	b, _ := c.buffers.Get().(*[copyBuffer]byte)
	if b == nil {
		b = new([copyBuffer]byte)
	}
	defer c.buffers.Put(b)
	for off < end {
		n, e := sysPread(c.src, b[:min(copyBuffer, end-off)], off)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return e
		}
		if n == 0 {
			return errTruncated
		}
		for done := 0; done < n; {
			m, e := sysPwrite(c.dst, b[done:n], off+int64(done))
			if e == unix.EINTR {
				continue
			}
			if e != 0 {
				return e
			}
			done += m
		}
		off += int64(n)
	}
	return nil
}

// all copies [0, size) of a file that nobody changes.
func (c *copier) all(ctx context.Context, size int64, p backstore.Progress) error {
	for off := int64(0); off < size; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if off = min(c.data(off)/pieceSize*pieceSize, size); off < size {
			end := min(off+pieceSize, size)
			if err := c.span(off, end); err != nil {
				return err
			}
			off = end
		}
		p.Report(off, size)
	}
	return nil
}

// reflink makes dst share src's blocks, all at once; false where the file system or the two files cannot. On xfs and btrfs, which can, it is
// one moment for writers: they wait for it.
func reflink(dst, src int) (bool, error) {
	for {
		err := unix.IoctlFileClone(dst, src)
		switch err {
		case nil:
			return true, nil
		case unix.EINTR:
			continue
		case unix.ENOSPC, unix.EDQUOT, unix.EIO:
			return false, err
		}
		return false, nil // each file system has its own way to say no
	}
}
