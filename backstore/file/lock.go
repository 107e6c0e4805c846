package file

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A process that was killed holds its lock until the kernel has ended its last requests (io_uring's outlive it by
// milliseconds and could still write): nobody is seen to hold it then, and it is waited for.
const (
	lockWait = 5 * time.Second
	lockPoll = 5 * time.Millisecond
)

// lock keeps others out: a write lock on the whole file for a writer, a read lock for who only reads or
// shares. It is an open file description lock, which qemu and other lunards see, goes with the
// descriptor, and holds against a second opener in this process too.
func lock(fd int, path string, cfg config, warn func(string)) error {
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if cfg.readonly || cfg.shared {
		l.Type = unix.F_RDLCK
	}
	err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &l)
	for end := time.Now().Add(lockWait); err == unix.EAGAIN || err == unix.EACCES; {
		by := holder(fd)
		if by != "" || time.Now().After(end) {
			return errClass(backstore.ClassBusy, "%s is in use%s", path, by)
		}
		time.Sleep(lockPoll)
		err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &l)
	}
	if err == nil {
		return nil
	}
	warn(fmt.Sprintf("%s cannot be locked against other processes: %v", path, err))
	return nil
}

// holder says which process has the file locked, as far as can be known: the kernel tells the number of
// who holds a POSIX lock; for others the descriptors in /proc are looked through, of which an ordinary
// user sees his own.
func holder(fd int) string {
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &l); err == nil && l.Type != unix.F_UNLCK && l.Pid > 0 {
		return fmt.Sprintf(": held by pid %d", l.Pid)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ""
	}
	ino := fmt.Sprintf(":%d ", st.Ino)
	infos, err := filepath.Glob("/proc/[0-9]*/fdinfo/*")
	if err != nil {
		return ""
	}
	for _, name := range infos {
		if !hasLock(name, ino) {
			continue
		}
		parts := strings.Split(name, "/")
		pid, err := strconv.Atoi(parts[2])
		if err != nil || !sameFile(filepath.Join("/proc", parts[2], "fd", parts[4]), &st) {
			continue
		}
		if pid == os.Getpid() {
			return ": held by this process (pid " + parts[2] + ")"
		}
		return ": held by pid " + parts[2]
	}
	return ""
}

// hasLock reports whether an fdinfo file tells of a lock on the inode; ino is ":NUMBER ".
func hasLock(name, ino string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	found := false
	for sc := bufio.NewScanner(f); !found && sc.Scan(); {
		line := sc.Text()
		found = strings.HasPrefix(line, "lock:") && strings.Contains(line, ino)
	}
	return f.Close() == nil && found
}

func sameFile(path string, want *unix.Stat_t) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Dev == want.Dev && st.Ino == want.Ino
}
