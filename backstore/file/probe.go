package file

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

const (
	xfsMagic    = 0x58465342
	ramfsMagic  = 0x858458f6
	pageBytes   = 4096
	maxSerial   = 256
	nowaitProbe = 1 // bytes
)

// networkFS are file systems on which other hosts do not see a completed write at once.
var networkFS = map[int64]bool{unix.NFS_SUPER_MAGIC: true, unix.SMB_SUPER_MAGIC: true, unix.SMB2_SUPER_MAGIC: true,
	unix.CIFS_SUPER_MAGIC: true, unix.CEPH_SUPER_MAGIC: true, unix.V9FS_MAGIC: true, unix.FUSE_SUPER_MAGIC: true}

// probe finds out what the descriptor is and what can be done with it without waiting.
func (s *Store) probe() (*backstore.Info, error) {
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: s.path, Err: err}
	}
	i := &backstore.Info{
		Driver: "file", Volume: s.path, Size: st.Size, BlockSize: 1, PhysicalBlock: pageBytes,
		MaxTransfer: maxTransfer, MaxInFlight: maxInFlight, MemAlign: 1, MaxDiscard: maxDiscard,
		Caps: backstore.CapFUA, ReadOnly: s.cfg.readonly, Coherent: true, Shared: s.cfg.shared,
	}
	var err error
	if s.dev = st.Mode&unix.S_IFMT == unix.S_IFBLK; s.dev {
		err = s.probeDevice(i, st.Rdev)
	} else {
		err = s.probeFile(i, &st)
	}
	if err != nil {
		return nil, err
	}
	if s.cfg.direct {
		if err := s.probeDirect(i); err != nil {
			return nil, err
		}
		s.read, s.write = wayAsync, wayAsync
	}
	if s.cfg.writethrough && s.write != wayPlain {
		s.write = wayAsync
	}
	if !s.cfg.writethrough && !s.mem {
		i.Caps |= backstore.CapFlush
	}
	if s.read != wayAsync {
		i.Caps |= backstore.CapNoWaitRead
	}
	if s.write != wayAsync && !(s.write == wayWriter && s.cfg.writer) {
		i.Caps |= backstore.CapNoWaitWrite
	}
	if s.cfg.readonly {
		i.Caps &^= backstore.CapNoWaitWrite | backstore.CapFlush | backstore.CapDiscard | backstore.CapWriteZeroes
	}
	i.DiscardZeroes = i.DiscardZeroes && i.Has(backstore.CapDiscard)
	return i, nil
}

func (s *Store) probeFile(i *backstore.Info, st *unix.Stat_t) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(s.fd, &fs); err != nil {
		return &os.PathError{Op: "statfs", Path: s.path, Err: err}
	}
	magic := fs.Type & 0xffffffff
	i.Coherent = !networkFS[magic]
	i.Caps |= backstore.CapAllocation | backstore.CapWriteZeroes
	if b := int64(st.Blksize); b >= sector && b&(b-1) == 0 && b <= 1<<16 { //nolint:unconvert // 32 bits on arm64
		i.PhysicalBlock = int(b)
	}
	// Punching behind the end changes nothing and tells whether it can be done.
	if s.cfg.thin && !s.cfg.readonly {
		end := (st.Size + pageBytes - 1) &^ (pageBytes - 1)
		if fallocate(s.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, end, pageBytes) == 0 {
			i.Caps |= backstore.CapDiscard
			i.DiscardZeroes, i.DiscardGranularity = true, int64(i.PhysicalBlock)
		}
	}
	switch magic {
	case unix.TMPFS_MAGIC, ramfsMagic:
		s.mem = true
		s.read, s.write = wayPlain, wayPlain
		return nil
	case xfsMagic, unix.BTRFS_SUPER_MAGIC:
		s.write = wayNoWait
	default:
		s.write = wayWriter
	}
	s.read = s.probeNoWait()
	return nil
}

// probeNoWait finds out whether reads can be tried without waiting.
func (s *Store) probeNoWait() way {
	var b [pageBytes]byte
	if _, e := nowait(unix.SYS_PREADV2, s.fd, b[:nowaitProbe], 0); e == unix.EOPNOTSUPP || e == unix.ENOSYS {
		return wayAsync
	}
	return wayNoWait
}

func ioctlUint(fd int, op uintptr, p unsafe.Pointer) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), op, uintptr(p))
	return e
}

func (s *Store) probeDevice(i *backstore.Info, rdev uint64) error {
	var size uint64
	if e := ioctlUint(s.fd, unix.BLKGETSIZE64, unsafe.Pointer(&size)); e != 0 {
		return &os.PathError{Op: "BLKGETSIZE64", Path: s.path, Err: e}
	}
	var logical, ro int32
	var physical, optimal uint32
	var rotational uint16
	if e := ioctlUint(s.fd, unix.BLKSSZGET, unsafe.Pointer(&logical)); e != 0 {
		return &os.PathError{Op: "BLKSSZGET", Path: s.path, Err: e}
	}
	if e := ioctlUint(s.fd, unix.BLKROGET, unsafe.Pointer(&ro)); e == 0 && ro != 0 && !s.cfg.readonly {
		return errClass(backstore.ClassReadOnly, "%s is a read-only device (readonly=on serves it)", s.path)
	}
	i.Size, i.BlockSize, i.PhysicalBlock = int64(size), int(logical), int(logical)
	if ioctlUint(s.fd, unix.BLKPBSZGET, unsafe.Pointer(&physical)) == 0 && int(physical) > i.PhysicalBlock {
		i.PhysicalBlock = int(physical)
	}
	if ioctlUint(s.fd, unix.BLKIOOPT, unsafe.Pointer(&optimal)) == 0 {
		i.OptimalIO = int(optimal)
	}
	if ioctlUint(s.fd, unix.BLKROTATIONAL, unsafe.Pointer(&rotational)) == 0 {
		i.Rotational = rotational != 0
	}
	i.Caps |= backstore.CapWriteZeroes
	sys := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(rdev), unix.Minor(rdev))
	i.Identity = deviceIdentity(sys)
	queue := filepath.Join(sys, "queue")
	if _, err := os.Stat(filepath.Join(sys, "partition")); err == nil {
		queue = filepath.Join(sys, "..", "queue") // the kernel resolves the link before ".."
		if real, err := filepath.EvalSymlinks(sys); err == nil {
			queue = filepath.Join(filepath.Dir(real), "queue")
		}
	}
	if s.cfg.thin && sysNumber(filepath.Join(queue, "discard_max_bytes")) > 0 {
		i.Caps |= backstore.CapDiscard
		i.DiscardGranularity = max(sysNumber(filepath.Join(queue, "discard_granularity")), int64(logical))
	}
	s.write = wayWriter // buffered writes to devices answer RWF_NOWAIT with EOPNOTSUPP
	s.read = s.probeNoWait()
	return nil
}

// probeDirect finds the multiples that O_DIRECT asks for.
func (s *Store) probeDirect(i *backstore.Info) error {
	var mem, off int
	var sx unix.Statx_t
	if err := unix.Statx(s.fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &sx); err == nil && sx.Mask&unix.STATX_DIOALIGN != 0 {
		mem, off = int(sx.Dio_mem_align), int(sx.Dio_offset_align)
		if off == 0 {
			return errClass(backstore.ClassUnsupported, "%s: its file system has no direct I/O", s.path)
		}
	} else { // before Linux 6.1: what every device is content with
		mem, off = pageBytes, max(i.BlockSize, sector)
		if !s.dev {
			off = max(off, pageBytes)
		}
	}
	i.MemAlign, i.BlockSize = max(mem, 1), max(off, i.BlockSize)
	i.PhysicalBlock = max(i.PhysicalBlock, i.BlockSize)
	return nil
}

// deviceIdentity returns what names the device for ever, if it has a name: the WWID of a SCSI or NVMe
// device, the UUID of a device-mapper device, a serial number; with the partition's number.
func deviceIdentity(sys string) string {
	real, err := filepath.EvalSymlinks(sys)
	if err != nil {
		return ""
	}
	part := ""
	if n := sysString(filepath.Join(real, "partition")); n != "" {
		part, real = "-part"+n, filepath.Dir(real)
	}
	for _, name := range []string{"wwid", "device/wwid", "dm/uuid", "serial", "device/serial"} {
		if v := sysString(filepath.Join(real, name)); v != "" {
			return v + part
		}
	}
	return ""
}

func sysString(name string) string {
	b, err := os.ReadFile(name)
	if err != nil || len(b) > maxSerial {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func sysNumber(name string) int64 {
	n, err := strconv.ParseInt(sysString(name), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
