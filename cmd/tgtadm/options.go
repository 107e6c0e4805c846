package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/tgtipc"
)

// options are the words and letters of tgtadm's command line, in the order in which glibc lists those that an abbreviation may mean.
// -F and -O take an argument that means nothing, while --force and --outgoing take none: so it is with tgt's, and scripts are
// written for it.
var options = []option{
	{"debug", 'd', false, false},
	{"help", 'h', false, false},
	{"version", 'V', false, false},
	{"lld", 'L', true, true},
	{"op", 'o', true, true},
	{"mode", 'm', true, true},
	{"tid", 't', true, true},
	{"sid", 's', true, true},
	{"cid", 'c', true, true},
	{"lun", 'l', true, true},
	{"name", 'n', true, true},
	{"value", 'v', true, true},
	{"backing-store", 'b', true, true},
	{"bstype", 'E', true, true},
	{"bsopts", 'S', true, true},
	{"bsoflags", 'f', true, true},
	{"blocksize", 'y', true, true},
	{"targetname", 'T', true, true},
	{"initiator-address", 'I', true, true},
	{"initiator-name", 'Q', true, true},
	{"user", 'u', true, true},
	{"password", 'p', true, true},
	{"host", 'H', true, true},
	{"force", 'F', false, true},
	{"params", 'P', true, true},
	{"bus", 'B', true, true},
	{"device-type", 'Y', true, true},
	{"outgoing", 'O', false, true},
	{"control-port", 'C', true, true},
}

// The words of --mode and --op, in tgt's numbering. Abbreviations of words are not taken.
type word[N comparable] struct {
	text string
	n    N
}

var modes = []word[tgtipc.Mode]{
	{"system", tgtipc.ModeSystem}, {"sys", tgtipc.ModeSystem}, {"target", tgtipc.ModeTarget}, {"tgt", tgtipc.ModeTarget}, {"logicalunit", tgtipc.ModeDevice}, {"lu", tgtipc.ModeDevice},
	{"portal", tgtipc.ModePortal}, {"pt", tgtipc.ModePortal}, {"session", tgtipc.ModeSession}, {"sess", tgtipc.ModeSession}, {"connection", tgtipc.ModeConnection},
	{"conn", tgtipc.ModeConnection}, {"account", tgtipc.ModeAccount}, {"lld", tgtipc.ModeLLD},
}

var ops = []word[tgtipc.Op]{
	{"new", tgtipc.OpNew}, {"delete", tgtipc.OpDelete}, {"bind", tgtipc.OpBind}, {"unbind", tgtipc.OpUnbind}, {"show", tgtipc.OpShow}, {"update", tgtipc.OpUpdate},
	{"stat", tgtipc.OpStats}, {"start", tgtipc.OpStart}, {"stop", tgtipc.OpStop},
}

var deviceTypes = []word[uint32]{
	{"disk", tgtipc.DeviceDisk}, {"tape", tgtipc.DeviceTape}, {"ssc", tgtipc.DeviceTape}, {"cd", tgtipc.DeviceCD},
	{"changer", tgtipc.DeviceChanger}, {"osd", tgtipc.DeviceOSD}, {"pt", tgtipc.DevicePassthrough},
}

// value is the number of text among words.
func value[N comparable](words []word[N], text string) (n N, ok bool) {
	for _, w := range words {
		if w.text == text {
			return w.n, true
		}
	}
	return n, false
}

// name is the first word with the number n: what messages call it.
func name[N comparable](words []word[N], n N) string {
	for _, w := range words {
		if w.n == n {
			return w.text
		}
	}
	return ""
}

// What stands for an operation and a mode that were not given; tgtipc.NoTID and NoLUN are tgt's marks for a tid and a LUN.
const (
	noOp   = ^tgtipc.Op(0)
	noMode = ^tgtipc.Mode(0)
)

// A command is what a command line has set. A nil text was not given.
type command struct {
	op         tgtipc.Op
	mode       tgtipc.Mode
	lld        string
	tid        int32
	sid, lun   uint64
	cid, host  uint32
	deviceType uint32
	outgoing   bool
	force      bool

	name, value, path, bstype, bsopts, bsoflags, blocksize *string
	targetname, address, iqn, user, password               *string
	params, portal                                         *string // --params, before or in another mode than portal, and after --mode portal

	control       uint64
	debug         bool
	help, version bool   // one of these ends everything else
	given         []byte // every option's letter, in order
}

// A usageError is one that tgtadm follows with a line on where its help is.
type usageError struct{ error }

// A wordError is a mode or an operation that does not exist: exit status 1, where all other mistakes have 22.
type wordError struct{ error }

// parse reads a command line; args[0] is the program, as it was called.
func parse(args []string) (*command, error) {
	c := &command{op: noOp, mode: noMode, tid: tgtipc.NoTID, lun: tgtipc.NoLUN}
	_, inOrder := os.LookupEnv("POSIXLY_CORRECT")
	g := &getopt{program: args[0], options: options, inOrder: inOrder, args: args[1:]}
	for {
		f, ok, err := g.next()
		if err != nil {
			return nil, usageError{err}
		}
		if !ok {
			break
		}
		c.given = append(c.given, f.short)
		if err := c.set(f); err != nil {
			return nil, err
		}
		if c.help || c.version {
			return c, nil
		}
	}
	if len(g.words) != 0 {
		return nil, usageError{fmt.Errorf("tgtadm: unrecognized option '%s'", g.words[0])}
	}
	return c, nil
}

// set applies one option. What is wrong with it ends the command at once, before any check of the whole.
func (c *command) set(f found) error {
	if text := c.text(f.short); text != nil {
		*text = &f.arg
		return nil
	}
	switch f.short {
	case 'd':
		c.debug = true
	case 'h':
		c.help = true
	case 'V':
		c.version = true
	case 'F':
		c.force = true
	case 'O':
		c.outgoing = true
	case 'L':
		c.lld = f.arg
	case 'o':
		n, ok := value(ops, f.arg)
		if !ok {
			return wordError{fmt.Errorf("tgtadm: unknown operation: %s", f.arg)}
		}
		c.op = n
	case 'm':
		n, ok := value(modes, f.arg)
		if !ok {
			return wordError{fmt.Errorf("tgtadm: unknown mode: %s", f.arg)}
		}
		c.mode = n
	case 'Y':
		n, ok := value(deviceTypes, f.arg)
		if !ok {
			return fmt.Errorf("tgtadm: unknown target type: %s", f.arg)
		}
		c.deviceType = n
	case 'B':
		n, err := busHost(f.arg)
		if err != nil {
			return err
		}
		c.host = n
	default:
		return c.setNumber(f)
	}
	return nil
}

// text is where the option of a letter puts its argument as it is, nil for others.
func (c *command) text(short byte) **string {
	switch short {
	case 'n':
		return &c.name
	case 'v':
		return &c.value
	case 'b':
		return &c.path
	case 'E':
		return &c.bstype
	case 'S':
		return &c.bsopts
	case 'f':
		return &c.bsoflags
	case 'y':
		return &c.blocksize
	case 'T':
		return &c.targetname
	case 'I':
		return &c.address
	case 'Q':
		return &c.iqn
	case 'u':
		return &c.user
	case 'p':
		return &c.password
	case 'P':
		// What it is depends on the mode that was given before it.
		if c.mode == tgtipc.ModePortal {
			return &c.portal
		}
		return &c.params
	}
	return nil
}

func (c *command) setNumber(f found) error {
	t := cInt
	switch f.short {
	case 's', 'l':
		t = cUint64
	case 'c', 'H':
		t = cUint32
	case 'C':
		t = cShort
	}
	n, err := number(f.arg, t)
	if err != nil {
		return usageError{fmt.Errorf("-%c argument value '%s' %w", f.short, f.arg, err)}
	}
	switch f.short {
	case 't':
		c.tid = int32(n)
	case 's':
		c.sid = n
	case 'c':
		c.cid = uint32(n)
	case 'l':
		c.lun = n
	case 'H':
		c.host = uint32(n)
	case 'C':
		c.control = n
	}
	return nil
}

// busHost is the SCSI host of BUS,DEVICE: the first entry host* of the device's folder in sysfs.
func busHost(arg string) (uint32, error) {
	bus, device, ok := strings.Cut(arg, ",")
	err := fmt.Errorf("tgtadm: can't find bus: %s", bus)
	if !ok {
		return 0, err
	}
	entries, readErr := os.ReadDir("/sys/bus/" + bus + "/devices/" + device)
	if readErr != nil {
		return 0, err
	}
	for _, e := range entries {
		n, ok := strings.CutPrefix(e.Name(), "host")
		if !ok {
			continue
		}
		if v, err := number(n, cUint32); !errors.Is(err, errInvalid) {
			return uint32(v), nil
		}
	}
	return 0, err
}
