package tgtvolume

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// DefaultType is the backing store of a disk of which nothing else is said.
const DefaultType = "rdwr"

// New makes a LUN of a backing store. Without a path it is a drive without a medium. blockSize is text, as tgt gets it: what is no
// power of two from 512 to 64 KiB is tgt's default of 512, as there.
func New(number uint16, s spec.TgtStore, blockSize string) (spec.LUN, error) {
	if s.Type == "" {
		s.Type = DefaultType
	}
	var err error
	if s.Flags, err = Flags(s.Type, s.Flags); err != nil {
		return spec.LUN{}, err
	}
	l := spec.LUN{Number: number, TgtNaming: true, BlockSize: blockBytes(blockSize), Tgt: &s}
	if l.Volume, err = URI(s); err != nil {
		return spec.LUN{}, err
	}
	if l.Volume == "" {
		l.Removable, l.Offline = true, true
	}
	return l, nil
}

// URI names the volume of a backing store; empty for one without a path.
func URI(s spec.TgtStore) (string, error) {
	if s.Type == "" {
		s.Type = DefaultType
	}
	switch s.Type {
	case "sg", "bsg":
		return "", fmt.Errorf("backing store %s: lunar does not pass commands through to SCSI devices; export the block device as rdwr", s.Type)
	case "ssc", "smc", "mmc":
		return "", fmt.Errorf("backing store %s: lunar serves disks, no tapes, changers or CDs", s.Type)
	case "sheepdog", "glfs":
		return "", fmt.Errorf("backing store %s: lunar has no driver for it", s.Type)
	}
	if s.Path == "" {
		return "", nil
	}
	if strings.ContainsRune(s.Path, 0) {
		return "", errors.New("a NUL byte in the path")
	}
	switch s.Type {
	case "rdwr", "aio":
		uri := "file:" + escape(s.Path)
		if s.Path[0] == '/' {
			uri = "file://" + escape(s.Path)
		}
		var opts []string
		for flag := range strings.SplitSeq(s.Flags, ":") {
			switch flag {
			case "direct":
				opts = append(opts, "direct=on")
			case "sync":
				opts = append(opts, "cache=writethrough")
			}
		}
		return query(uri, opts), nil
	case "null":
		return "null:", nil
	case "curve":
		return query("cbd:"+escape(strings.TrimPrefix(s.Path, "cbd:")), options(s.Options)), nil
	}
	for i := range len(s.Type) {
		if c := s.Type[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '+' || i == 0) {
			return "", fmt.Errorf("backing store %q: no such type", s.Type)
		}
	}
	// rbd, longhorn and whatever comes: a type is a driver, and the path its own name of the volume.
	return query(s.Type+":"+escape(s.Path), options(s.Options)), nil
}

// Flags returns --bsoflags in tgt's order, which is how they are shown. An aio store has none.
func Flags(typ, s string) (string, error) {
	if s == "" {
		return "", nil
	}
	var direct, sync bool
	for flag := range strings.SplitSeq(s, ":") {
		switch flag {
		case "direct":
			direct = true
		case "sync":
			sync = true
		default:
			return "", fmt.Errorf("bsoflags %q: want sync, direct or sync:direct", s)
		}
	}
	if typ != "" && typ != "rdwr" {
		return "", fmt.Errorf("bsoflags %q: backing store %s has no flags", s, typ)
	}
	switch {
	case direct && sync:
		return "sync:direct", nil
	case direct:
		return "direct", nil
	}
	return "sync", nil
}

// options reads --bsopts, KEY=VALUE joined by ";", as options of a URI.
func options(s string) (out []string) {
	for one := range strings.SplitSeq(s, ";") {
		if one = strings.TrimSpace(one); one == "" {
			continue
		}
		k, v, _ := strings.Cut(one, "=")
		out = append(out, escape(k)+"="+escape(v))
	}
	return out
}

func query(uri string, opts []string) string {
	if len(opts) == 0 {
		return uri
	}
	return uri + "?" + strings.Join(opts, "&")
}

// escape writes what would mean something else in a URI as %XX.
func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("/-._~:@,", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

func blockBytes(s string) int {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil || n < 512 || n > 64<<10 || n&(n-1) != 0 {
		return 0
	}
	return int(n)
}
