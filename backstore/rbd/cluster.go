//go:build rbd && cgo

package rbd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"github.com/ceph/go-ceph/rados"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/rbd/internal/librbd"
)

// A cluster is a client of a Ceph cluster, and a pool of it.
type cluster struct {
	conn *rados.Conn
	io   *rados.IOContext
	fsid string
	pool int64
}

// blockFor is how long somebody who was shut out stays so. A process that was frozen for longer could write again; an hour, Ceph's default,
// is within what a suspended virtual machine sleeps.
const blockFor = 30 * 24 * time.Hour

// connect becomes a client of c's cluster and opens its pool. Until steady is called, an operation that the cluster does not answer fails when ctx
// ends, or c.openTime is over.
func connect(ctx context.Context, c *config) (*cluster, error) {
	conn, err := rados.NewConnWithClusterAndUser(c.cluster, "client."+c.id)
	if err != nil {
		return nil, failed("open", "making a client", err)
	}
	cl, err := join(ctx, c, conn)
	if err != nil {
		return nil, err
	}
	if cl.io, err = conn.OpenIOContext(c.pool); err != nil {
		cl.close()
		return nil, failed("open", "pool "+c.pool, err)
	}
	cl.pool = cl.io.GetPoolID()
	cl.io.SetNamespace(c.namespace)
	return cl, nil
}

// join configures conn and connects it to c's cluster. Where that fails, conn is freed.
func join(ctx context.Context, c *config, conn *rados.Conn) (_ *cluster, err error) {
	connected := false
	defer func() {
		if err != nil && !connected {
			// go-ceph leaves it to the garbage collector, which may take minutes, and its finalizers would wait for it.
			runtime.SetFinalizer(conn, nil)
			librbd.Shutdown(unsafe.Pointer(conn.Cluster()))
		}
	}()
	if c.conf != "" {
		if err = readable(c.conf); err == nil {
			err = conn.ReadConfigFile(c.conf)
		}
		if err != nil {
			return nil, failed("open", "reading "+c.conf, err)
		}
	} else if err = conn.ReadDefaultConfigFile(); err != nil {
		return nil, failed("open", "reading Ceph's configuration (/etc/ceph/"+c.cluster+".conf; the option conf= names another file)", err)
	}
	limit := strconv.Itoa(int(math.Ceil(patience(ctx, c.openTime).Seconds())))
	cache := "false"
	if c.cache != "" {
		cache = "true"
	}
	for _, o := range [][2]string{
		{"client_mount_timeout", limit}, {"rados_mon_op_timeout", limit}, {"rados_osd_op_timeout", limit},
		{"rbd_cache", cache}, {"rbd_cache_policy", c.cache}, {"rbd_non_blocking_aio", "true"},
		{"rbd_blocklist_on_break_lock", "true"},
		{"keyring", c.keyring},
		{"log_to_stderr", "false"}, {"err_to_stderr", "false"}, // what librbd says goes to its log_file, and what comes of it is in our errors
	} {
		if o[1] == "" {
			continue
		}
		if err := conn.SetConfigOption(o[0], o[1]); err != nil {
			return nil, failed("open", "setting "+o[0], err)
		}
	}
	if err := conn.Connect(); err != nil {
		return nil, failed("open", fmt.Sprintf("connecting to the cluster as client.%s", c.id), err)
	}
	connected = true
	cl := &cluster{conn: conn}
	if cl.fsid, err = conn.GetFSID(); err != nil {
		cl.close()
		return nil, failed("open", "asking for the cluster's id", err)
	}
	return cl, nil
}

// readable says why a file cannot be read, in more words than librados has.
func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func patience(ctx context.Context, most time.Duration) time.Duration {
	if t, ok := ctx.Deadline(); ok {
		most = min(most, time.Until(t))
	}
	return max(most, time.Second)
}

// steady takes the time limits off: from now on nothing ends that may still be applied.
func (cl *cluster) steady() error {
	if err := cl.conn.SetConfigOption("rados_osd_op_timeout", "0"); err != nil {
		return failed("open", "taking the time limit off", err)
	}
	return nil
}

func (cl *cluster) close() {
	if cl.io != nil {
		cl.io.Destroy()
	}
	cl.conn.Shutdown()
}

// failed makes a driver's error of one of librados, librbd or the system.
func failed(op, what string, err error) error {
	var be *backstore.Error
	if errors.As(err, &be) {
		return err
	}
	class := backstore.ClassOffline
	switch n, _ := errnoOf(err); n {
	case syscall.ENOENT:
		class = backstore.ClassNotFound
	case syscall.EBUSY, syscall.EEXIST, syscall.ENOTEMPTY, syscall.EAGAIN:
		class = backstore.ClassBusy
	case syscall.EROFS:
		class = backstore.ClassReadOnly
	case syscall.EACCES, syscall.EPERM:
		if op != "open" { // there it is a matter of keys and rights, which an administrator mends
			class = backstore.ClassReadOnly
		}
	case syscall.ESHUTDOWN:
		class = backstore.ClassFenced
	case syscall.ENOSPC, syscall.EDQUOT:
		class = backstore.ClassNoSpace
	case syscall.EINVAL, syscall.ERANGE, syscall.EDOM, syscall.ENAMETOOLONG:
		class = backstore.ClassRange
	case syscall.EOPNOTSUPP, syscall.ENOSYS, syscall.ENOEXEC:
		class = backstore.ClassUnsupported
	case syscall.EIO:
		class = backstore.ClassMedium
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		class = backstore.ClassCancelled
	}
	if n, ok := errnoOf(err); ok {
		err = n // with the system's words for it
	}
	return &backstore.Error{Class: class, Op: op, Cause: fmt.Errorf("%s: %w", what, err)}
}

// errnoOf is the errno within an error of go-ceph, or of internal/librbd.
func errnoOf(err error) (syscall.Errno, bool) {
	var n syscall.Errno
	if errors.As(err, &n) {
		return n, true
	}
	var coded interface{ ErrorCode() int }
	if errors.As(err, &coded) && coded.ErrorCode() < 0 {
		return syscall.Errno(-coded.ErrorCode()), true
	}
	return 0, false
}
