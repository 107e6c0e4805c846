package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/session/initiator/load"
)

// A medium is where a row's files lie.
type medium int

const (
	memory     medium = iota // tmpfs
	disk                     // the disk's own file system, through the page cache, warm
	diskDirect               // the same past the page cache, where a server can
)

// Sizes of a row's files.
const (
	volumeSize = 1 << 30   // each file
	smallSize  = 256 << 20 // of all files together of a server that is one of many of its kind in a row
	fillChunk  = 1 << 20
)

// A volumes is the set of files that the benchmarks serve, made when first asked for.
type volumes struct {
	memDir, diskDir string // folders of our own
	made            map[string]bool
}

// get returns n files filled with the client's pattern. Set 0 is shared by all servers of a row; a server that must not
// share has a set of its own; small ones together have smallSize.
func (v *volumes) get(m medium, set, n int, small bool) ([]string, error) {
	dir := v.memDir
	if m != memory {
		dir = v.diskDir
	}
	size := int64(volumeSize)
	if small {
		size = smallSize / int64(n)
	}
	var files []string
	for i := range n {
		f := filepath.Join(dir, fmt.Sprintf("set%d-%dm-%d.img", set, size>>20, i))
		if !v.made[f] {
			if err := fill(f, size); err != nil {
				return nil, err
			}
			v.made[f] = true
		}
		files = append(files, f)
	}
	return files, nil
}

// trim removes every file of the sets above 0 and of rows with many targets: they are large, and one row uses them.
func (v *volumes) trim() error {
	keep := filepath.Join(v.memDir, fmt.Sprintf("set0-%dm-0.img", volumeSize>>20))
	for f := range v.made {
		if f == keep {
			continue
		}
		if err := os.Remove(f); err != nil {
			return err
		}
		delete(v.made, f)
	}
	return nil
}

func (v *volumes) remove() error {
	if err := os.RemoveAll(v.memDir); err != nil {
		return err
	}
	return os.RemoveAll(v.diskDir)
}

// fill writes the pattern to a new file and has it on disk.
func fill(name string, size int64) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	b := make([]byte, fillChunk)
	for off := int64(0); off < size; off += fillChunk {
		n := min(size-off, fillChunk)
		load.Fill(b[:n], off)
		if _, err := f.WriteAt(b[:n], off); err != nil {
			return err
		}
	}
	return f.Sync()
}

// fsName names the file system of dir as statfs tells it.
func fsName(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err.Error()
	}
	switch st.Type {
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	}
	return fmt.Sprintf("file system %#x", st.Type)
}
