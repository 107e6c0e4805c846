//go:build rbd && cgo

package librbd

// #include "shim.h"
// #include <stdlib.h>
import "C"

import (
	"context"
	"errors"
	"syscall"
	"time"
	"unsafe"
)

// An Image is an open image. Its methods block.
type Image struct{ c C.rbd_image_t }

// errno is the error of what librbd has returned.
func errno(ret C.int) error {
	if ret < 0 {
		return syscall.Errno(-ret)
	}
	return nil
}

// Open opens an image, or a snapshot of it where snap is not empty. ioctx is a rados_ioctx_t, which lives longer.
func Open(ioctx unsafe.Pointer, name, snap string, readOnly bool) (*Image, error) {
	n := C.CString(name)
	defer C.free(unsafe.Pointer(n))
	var s *C.char
	if snap != "" {
		s = C.CString(snap)
		defer C.free(unsafe.Pointer(s))
	}
	i := &Image{}
	var ret C.int
	if readOnly {
		ret = C.rbd_open_read_only(C.rados_ioctx_t(ioctx), n, &i.c, s)
	} else {
		ret = C.rbd_open(C.rados_ioctx_t(ioctx), n, &i.c, s)
	}
	if err := errno(ret); err != nil {
		return nil, err
	}
	return i, nil
}

// Close flushes and closes the image.
func (i *Image) Close() error { return errno(C.rbd_close(i.c)) }

// Watch has the ring say when the image's header changes.
func (i *Image) Watch(r *Ring) (handle uint64, err error) {
	var h C.uint64_t
	err = errno(C.lunar_watch(r.c, i.c, &h))
	return uint64(h), err
}

// Unwatch ends what Watch began.
func (i *Image) Unwatch(handle uint64) error {
	return errno(C.rbd_update_unwatch(i.c, C.uint64_t(handle)))
}

// Size is the present size in bytes.
func (i *Image) Size() (int64, error) {
	var n C.uint64_t
	err := errno(C.rbd_get_size(i.c, &n))
	return int64(n), err
}

// StripeUnit is how many bytes in a row lie in one object.
func (i *Image) StripeUnit() (int64, error) {
	var n C.uint64_t
	err := errno(C.rbd_get_stripe_unit(i.c, &n))
	return int64(n), err
}

// ObjectSize is the size of an object in bytes.
func (i *Image) ObjectSize() (int64, error) {
	var info C.rbd_image_info_t
	err := errno(C.rbd_stat(i.c, &info, C.size_t(unsafe.Sizeof(info))))
	return int64(info.obj_size), err
}

// Features are the image's features, RBD_FEATURE_….
func (i *Image) Features() (uint64, error) {
	var n C.uint64_t
	err := errno(C.rbd_get_features(i.c, &n))
	return uint64(n), err
}

// ID is the image's id, unique in its pool.
func (i *Image) ID() (string, error) {
	var buf [256]C.char
	err := errno(C.rbd_get_id(i.c, &buf[0], C.size_t(len(buf))))
	return C.GoString(&buf[0]), err
}

// Config is what the image has for an option of Ceph's: its own metadata and its pool's go before what the client is configured with.
func (i *Image) Config(name string) (string, error) {
	n := C.CString(name)
	defer C.free(unsafe.Pointer(n))
	var buf [256]C.char
	err := errno(C.lunar_config(i.c, n, &buf[0], C.size_t(len(buf))))
	return C.GoString(&buf[0]), err
}

// LockAcquire takes the exclusive lock, not to be handed over to whoever asks.
func (i *Image) LockAcquire() error { return errno(C.rbd_lock_acquire(i.c, C.RBD_LOCK_MODE_EXCLUSIVE)) }

// LockOwned asks the cluster whether the exclusive lock is this handle's.
func (i *Image) LockOwned() (bool, error) {
	var is C.int
	err := errno(C.rbd_is_exclusive_lock_owner(i.c, &is))
	return is != 0, err
}

// SetMetadata keeps a word of ours with the image.
func (i *Image) SetMetadata(key, value string) error {
	k, v := C.CString(key), C.CString(value)
	defer C.free(unsafe.Pointer(k))
	defer C.free(unsafe.Pointer(v))
	return errno(C.rbd_metadata_set(i.c, k, v))
}

// Flush makes everything durable.
func (i *Image) Flush() error { return errno(C.rbd_flush(i.c)) }

// An Extent is a run of bytes that are there.
type Extent struct{ Off, Len int64 }

// Diff appends to out, up to its capacity, what of a range is there, in ascending order; full says that the capacity did not do.
func (i *Image) Diff(off, n int64, out []Extent) (_ []Extent, full bool, err error) {
	room := cap(out) - len(out)
	d := (*C.struct_lunar_diff)(C.calloc(1, C.size_t(unsafe.Sizeof(C.struct_lunar_diff{}))))
	defer C.free(unsafe.Pointer(d))
	d.ext = (*C.struct_lunar_extent)(C.calloc(C.size_t(max(room, 1)), C.size_t(unsafe.Sizeof(C.struct_lunar_extent{}))))
	defer C.free(unsafe.Pointer(d.ext))
	d.room = C.uint32_t(room)
	if err = errno(C.lunar_diff(i.c, C.uint64_t(off), C.uint64_t(n), d)); err != nil {
		return out, false, err
	}
	for _, e := range unsafe.Slice(d.ext, max(room, 1))[:d.n] {
		out = append(out, Extent{Off: int64(e.off), Len: int64(e.len)})
	}
	return out, d.full != 0, nil
}

// progressEvery is how often long work is looked at: it says how far it is, and learns that its context has ended.
const progressEvery = 100 * time.Millisecond

// watched runs work, which blocks, tells report how far it is and has it stop, at librbd's next step, when ctx ends. It returns when work has.
func watched(ctx context.Context, report func(done, total int64), work func(*C.struct_lunar_progress) C.int) error {
	p := (*C.struct_lunar_progress)(C.calloc(1, C.size_t(unsafe.Sizeof(C.struct_lunar_progress{}))))
	defer C.free(unsafe.Pointer(p))
	done := make(chan C.int, 1)
	go func() { done <- work(p) }()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	cancel := ctx.Done()
	var last int64 = -1
	for {
		select {
		case ret := <-done:
			err := errno(ret)
			if errors.Is(err, syscall.ECANCELED) && ctx.Err() != nil {
				return ctx.Err()
			}
			if total := int64(loadU64(&p.total)); err == nil && total > 0 && last != total {
				report(total, total)
			}
			return err
		case <-cancel:
			storeInt(&p.cancel, 1)
			cancel = nil
		case <-tick.C:
			if d, t := int64(loadU64(&p.done)), int64(loadU64(&p.total)); t > 0 && d != last {
				last = d
				report(d, t)
			}
		}
	}
}

// Resize changes the size; smaller only with shrink.
func (i *Image) Resize(ctx context.Context, size int64, shrink bool, report func(done, total int64)) error {
	var s C.int
	if shrink {
		s = 1
	}
	return watched(ctx, report, func(p *C.struct_lunar_progress) C.int { return C.lunar_resize(i.c, C.uint64_t(size), s, p) })
}

// Flatten copies what a clone has of its parent.
func (i *Image) Flatten(ctx context.Context, report func(done, total int64)) error {
	return watched(ctx, report, func(p *C.struct_lunar_progress) C.int { return C.lunar_flatten(i.c, p) })
}

// Rollback gives the image the contents of a snapshot.
func (i *Image) Rollback(ctx context.Context, snap string, report func(done, total int64)) error {
	n := C.CString(snap)
	defer C.free(unsafe.Pointer(n))
	return watched(ctx, report, func(p *C.struct_lunar_progress) C.int { return C.lunar_rollback(i.c, n, p) })
}

// SnapCreate takes a snapshot.
func (i *Image) SnapCreate(name string) error {
	n := C.CString(name)
	defer C.free(unsafe.Pointer(n))
	return errno(C.lunar_snap_create(i.c, n))
}

// SnapRemove removes a snapshot.
func (i *Image) SnapRemove(ctx context.Context, name string, report func(done, total int64)) error {
	n := C.CString(name)
	defer C.free(unsafe.Pointer(n))
	return watched(ctx, report, func(p *C.struct_lunar_progress) C.int { return C.lunar_snap_remove(i.c, n, p) })
}

// Remove removes an image for ever.
func Remove(ctx context.Context, ioctx unsafe.Pointer, name string, report func(done, total int64)) error {
	n := C.CString(name)
	defer C.free(unsafe.Pointer(n))
	return watched(ctx, report, func(p *C.struct_lunar_progress) C.int { return C.lunar_remove(C.rados_ioctx_t(ioctx), n, p) })
}

// TrashRemove removes for ever an image that is in the trash; force: although its time has not come.
func TrashRemove(ctx context.Context, ioctx unsafe.Pointer, id string, force bool, report func(done, total int64)) error {
	n := C.CString(id)
	defer C.free(unsafe.Pointer(n))
	var f C.int
	if force {
		f = 1
	}
	return watched(ctx, report, func(p *C.struct_lunar_progress) C.int { return C.lunar_trash_remove(C.rados_ioctx_t(ioctx), n, f, p) })
}

// Shutdown frees a rados_t that never came to be connected; cluster is not used afterwards.
func Shutdown(cluster unsafe.Pointer) { C.rados_shutdown(C.rados_t(cluster)) }

// Version is librbd's own version, "1.16.0" for Ceph 16.
func Version() (major, minor, extra int) {
	var a, b, c C.int
	C.rbd_version(&a, &b, &c)
	return int(a), int(b), int(c)
}
