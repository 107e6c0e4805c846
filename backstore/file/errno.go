package file

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

var (
	errFailed     = errors.New("an earlier flush or durable write failed; the volume has to be opened anew")
	errNotDurable = errors.New("an earlier flush or durable write failed; what was written since the last good flush may not be on the disk")
	errTruncated  = errors.New("the file has become shorter than the volume")
)

// classOf is the one table from errno to class.
func classOf(e unix.Errno) backstore.Class {
	switch e {
	case unix.EIO, unix.ENODATA, unix.ERANGE:
		return backstore.ClassMedium
	case unix.EILSEQ, unix.EBADMSG, unix.EUCLEAN:
		return backstore.ClassIntegrity
	case unix.ENOENT, unix.ENOTDIR:
		return backstore.ClassNotFound
	case unix.ENXIO, unix.ENODEV, unix.EREMOTEIO, unix.ESTALE, unix.ENOLINK, unix.ENOTCONN, unix.EHOSTDOWN, unix.EHOSTUNREACH, unix.ESHUTDOWN:
		return backstore.ClassOffline
	case unix.EBUSY, unix.EAGAIN, unix.ENOMEM, unix.ENFILE, unix.EMFILE, unix.ETXTBSY:
		return backstore.ClassBusy
	case unix.ENOSPC, unix.EDQUOT, unix.EFBIG:
		return backstore.ClassNoSpace
	case unix.EROFS, unix.EPERM, unix.EACCES:
		return backstore.ClassReadOnly
	case unix.ETIMEDOUT:
		return backstore.ClassTimeout
	case unix.EBADE: // a path or reservation conflict: "nexus" failure of the block layer
		return backstore.ClassFenced
	case unix.EOPNOTSUPP, unix.ENOSYS, unix.ENOTTY:
		return backstore.ClassUnsupported
	}
	return backstore.ClassInternal
}

// fail makes the error of a request.
func fail(r *backstore.Request, e unix.Errno) error {
	return &backstore.Error{Class: classOf(e), Op: r.Op.String(), Off: r.Off, Cause: e}
}

// failShort makes the error of a read that met the end of the file.
func failShort(r *backstore.Request, done int) error {
	return &backstore.Error{Class: backstore.ClassMedium, Op: r.Op.String(), Off: r.Off + int64(done), Cause: errors.Join(errTruncated, io.ErrUnexpectedEOF)}
}

// failSticky is the answer of a store that has failed.
func failSticky(r *backstore.Request) error {
	return &backstore.Error{Class: backstore.ClassMedium, Op: r.Op.String(), Off: r.Off, Cause: errFailed}
}
