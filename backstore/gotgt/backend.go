package gotgt

import (
	"errors"
	"fmt"

	"github.com/gostor/gotgt/pkg/api"
)

// A backend is what the workers call: either of gotgt's interfaces.
type backend interface {
	read(b []byte, off int64) error
	write(b []byte, off int64) error
	sync(off, n int64) error
	unmap(off, n int64) error
	close() error
}

// A local is an api.BackingStore that has been opened for dev.
type local struct {
	bs  api.BackingStore
	dev *api.SCSILu
}

func (l local) read(b []byte, off int64) error {
	got, err := l.bs.Read(off, int64(len(b)))
	if err != nil {
		return err
	}
	if len(got) != len(b) {
		return fmt.Errorf("%d bytes were read of %d", len(got), len(b))
	}
	copy(b, got)
	return nil
}

func (l local) write(b []byte, off int64) error { return l.bs.Write(b, off) }
func (l local) sync(off, n int64) error         { return l.bs.DataSync(off, n) }
func (l local) close() error                    { return l.bs.Close(l.dev) }

// unmap splits what is longer than the 32 bits of gotgt's descriptor.
func (l local) unmap(off, n int64) error {
	for n > 0 {
		part := min(n, maxUnmap)
		if err := l.bs.Unmap([]api.UnmapBlockDescriptor{{Offset: uint64(off), TL: uint32(part)}}); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

// A remote is an api.RemoteBackingStore. It has no end of its own: whoever made it closes it.
type remote struct{ rs api.RemoteBackingStore }

func (r remote) read(b []byte, off int64) error {
	n, err := r.rs.ReadAt(b, off)
	if n == len(b) {
		return nil // io.ReaderAt: an error beside a full read is the end of the volume
	}
	if err == nil {
		err = errors.New("no error was told")
	}
	return fmt.Errorf("%d bytes were read of %d: %w", n, len(b), err)
}

func (r remote) write(b []byte, off int64) error {
	n, err := r.rs.WriteAt(b, off)
	if err == nil && n != len(b) {
		err = fmt.Errorf("%d bytes were written of %d", n, len(b))
	}
	return err
}

func (r remote) sync(int64, int64) error {
	_, err := r.rs.Sync()
	return err
}

func (r remote) unmap(off, n int64) error {
	_, err := r.rs.Unmap(off, n)
	return err
}

func (r remote) close() error { return nil }
