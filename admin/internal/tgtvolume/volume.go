package tgtvolume

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// DefaultType is the backing store of a disk of which nothing else is said.
const DefaultType = "rdwr"

// nullSize is how large tgtd's null store is.
const nullSize = "1T"

// New makes a LUN of a backing store, of which scheme says what driver there is (URI). Without a path it is a drive without a
// medium. blockSize is text, as tgt gets it: what is no power of two is tgt's default of 512, as there.
func New(number uint16, s spec.TgtStore, blockSize string, known func(scheme string) bool) (spec.LUN, error) {
	if s.Type == "" {
		s.Type = DefaultType
	}
	var err error
	if s.Flags, err = Flags(s.Flags); err != nil {
		return spec.LUN{}, err
	}
	thin := false // tgtd's disks unmap nothing until thin_provisioning=1: what was allocated stays so
	l := spec.LUN{Number: number, TgtNaming: true, Thin: &thin, BlockSize: BlockSize(blockSize), Tgt: &s}
	if l.Volume, err = URI(s, known); err != nil {
		return spec.LUN{}, err
	}
	if l.Volume == "" {
		l.Removable, l.Offline = true, true
	}
	return l, nil
}

// Refused are stores that tgtd lists, and why lunar makes no disk of them.
func Refused(typ string) (why string, ok bool) {
	switch typ {
	case "sg", "bsg":
		return "SCSI devices are not passed through; a block device is served as rdwr", true
	case "ssc":
		return "lunar serves disks, not tapes", true
	case "smc":
		return "lunar serves disks, not changers", true
	case "mmc":
		return "lunar serves disks, not CDs", true
	case "sheepdog":
		return "lunar has no Sheepdog client", true
	case "glfs":
		return "lunar has no GlusterFS client", true
	}
	return "", false
}

// Scheme is the scheme of volumes of a type of store: the type itself where tgt does not know it.
func Scheme(typ string) string {
	switch typ {
	case "rdwr", "aio":
		return "file"
	case "curve":
		return "cbd"
	}
	return typ
}

// URI names the volume of a backing store; empty for one without a path. known says which schemes there is a driver for; nil: all.
//
// aio means O_DIRECT in tgtd, too. The path of a type that tgtd does not have may be a whole URI, or the name of the volume, with
// bsopts KEY=VALUE;KEY=VALUE as its options.
func URI(s spec.TgtStore, known func(scheme string) bool) (string, error) {
	if s.Type == "" {
		s.Type = DefaultType
	}
	if why, ok := Refused(s.Type); ok {
		return "", fmt.Errorf("backing store type %s: %s", s.Type, why)
	}
	scheme := Scheme(s.Type)
	switch {
	case !isScheme(scheme) || known != nil && !known(scheme):
		return "", fmt.Errorf("there is no backing store type %q", s.Type)
	case s.Flags != "" && s.Type != "rdwr" && s.Type != "rbd":
		return "", fmt.Errorf("backing store type %s takes no bsoflags", s.Type)
	case s.Path == "":
		return "", nil
	case strings.ContainsRune(s.Path, 0):
		return "", errors.New("a NUL byte in the path")
	}
	switch s.Type {
	case "null":
		return "null:?size=" + nullSize, nil
	case "rdwr", "aio":
		path, err := filepath.Abs(s.Path)
		if err != nil {
			return "", err
		}
		var opts []string
		if s.Type == "aio" || strings.Contains(s.Flags, "direct") {
			opts = append(opts, "direct=on")
		}
		if strings.Contains(s.Flags, "sync") {
			opts = append(opts, "cache=writethrough")
		}
		return AddOptions("file://"+escape(path), opts...), nil
	}
	var opts []string
	for one := range strings.SplitSeq(s.Options, ";") {
		if k, v, ok := strings.Cut(one, "="); ok {
			opts = append(opts, url.QueryEscape(k)+"="+url.PathEscape(v))
		}
	}
	if strings.HasPrefix(s.Path, scheme+":") {
		return AddOptions(s.Path, opts...), nil
	}
	return AddOptions(scheme+":"+escape(s.Path), opts...), nil
}

// AddOptions puts options, KEY=VALUE and escaped, behind a volume.
func AddOptions(volume string, opts ...string) string {
	if len(opts) == 0 {
		return volume
	}
	sep := "?"
	if strings.Contains(volume, "?") {
		sep = "&"
	}
	return volume + sep + strings.Join(opts, "&")
}

func isScheme(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '+' || i == 0) {
			return false
		}
	}
	return s != ""
}

func escape(path string) string { return (&url.URL{Path: path}).EscapedPath() }

// Flags reads --bsoflags and returns them in the order in which they are shown.
func Flags(s string) (string, error) {
	var sync, direct bool
	for one := range strings.SplitSeq(s, ":") {
		switch one {
		case "sync":
			sync = true
		case "direct":
			direct = true
		case "":
		default:
			return "", fmt.Errorf("bsoflags %q: want sync, direct or sync:direct", s)
		}
	}
	switch {
	case sync && direct:
		return "sync:direct", nil
	case sync:
		return "sync", nil
	case direct:
		return "direct", nil
	}
	return "", nil
}

// BlockSize reads --blocksize: 0, for the default of 512, where it is that or, as in tgtd, cannot be a block's size.
func BlockSize(s string) int {
	n, _, ok := Number(s)
	if !ok || n < 2 || n > 1<<30 || n&(n-1) != 0 || n == 512 {
		return 0
	}
	return int(n)
}
