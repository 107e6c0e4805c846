//go:build rbd && cgo

package rbd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/ceph/go-ceph/rbd"
)

// ownerKey is the image's metadata in which its opener says who it is. The cluster believes a client alive for half a minute after it has died; a process
// that starts again on the same machine can know better, and need not wait that long.
const ownerKey = "lunar.owner"

// owner tells a process from all others: the client's address, the machine since it was last started, the space that the number of the process
// belongs to, that number, and when the process was started.
func owner(addr string) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	space, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return "", err
	}
	started, err := startOf("self")
	if err != nil {
		return "", err
	}
	return strings.Join([]string{bare(addr), strings.TrimSpace(string(boot)), space, fmt.Sprint(os.Getpid()), started}, " "), nil
}

// startOf is when a process was started, in the kernel's words.
func startOf(pid string) (string, error) {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return "", err
	}
	_, rest, _ := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte(" ")) // the name may hold anything
	f := bytes.Fields(rest)
	const starttime = 22 - 3 // of proc(5), and the first field here is the third
	if len(f) <= starttime {
		return "", errors.New("/proc/" + pid + "/stat has another form")
	}
	return string(f[starttime]), nil
}

// gone tells whether h is a process of this machine that is known to have ended.
func gone(img *rbd.Image, h holder) bool {
	said, err := img.GetMetadata(ownerKey)
	if err != nil {
		return false // nobody has said anything
	}
	self, err := owner(h.addr)
	if err != nil {
		return false
	}
	his, ours := strings.Fields(said), strings.Fields(self)
	if len(his) != len(ours) || his[0] != ours[0] || his[1] != ours[1] || his[2] != ours[2] {
		return false
	}
	started, err := startOf(his[3])
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	return err == nil && started != his[4] // another process has the number by now
}

// claim says in the image's metadata who has it open. What that is for is nothing that an opening should fail for.
func (s *Store) claim() {
	addr, err := s.cl.conn.GetAddrs()
	if err == nil {
		var text string
		if text, err = owner(addr); err == nil {
			err = s.img.SetMetadata(ownerKey, text)
		}
	}
	if err != nil {
		s.warn(s.cfg.spec.String() + ": the image does not say who has it open, so that a restart after a crash waits for the cluster's time limit: " + err.Error())
	}
}
