package config

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/internal/tgtvolume"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

// TargetsConfOptions say how a targets.conf is read.
type TargetsConfOptions struct {
	Options
	// NamesAdmitAll opens a target that has initiator-name and no initiator-address to everybody, as tgt-admin does. Without it the
	// names decide, and a warning says so.
	NamesAdmitAll bool
	// Known says which schemes of volumes there is a driver for; nil: all.
	Known func(scheme string) bool
	// Sys is where sysfs is, of which direct-store asks what a device says of itself; empty: /sys.
	Sys string
}

// LoadTargetsConf reads a targets.conf as tgt-admin --execute does on a daemon that serves nothing: same targets, TIDs, LUN numbers, accounts
// and access. What tgt-admin takes no notice of is a warning, what it would stop at is an error; stores that are not there are left out,
// and keep their number.
func LoadTargetsConf(path string, o TargetsConfOptions) (*File, error) {
	r := &confReader{o: o.Options, seen: map[string]bool{}, left: o.maxFile(), private: true}
	if filepath.IsAbs(path) {
		r.base = filepath.Dir(path)
	}
	if err := r.file(path, confLine{}); err != nil {
		return nil, err
	}
	return r.document(o)
}

func (r *confReader) document(o TargetsConfOptions) (*File, error) {
	root, err := parseConf(r.lines, r.warnf)
	if err != nil {
		return nil, err
	}
	c := &confDocument{
		o: o, r: r, accounts: map[string]bool{},
		f: &File{Has: Targets | Accounts, Keep: Accounts, tgt: true, renumber: map[string]bool{}},
	}
	if o.Known == nil {
		c.o.Known = func(string) bool { return true }
	}
	c.globals(root)
	c.targets(root)
	if len(c.errs) == 0 {
		c.check()
	}
	c.f.Warnings = r.warnings.lines()
	if err := c.errs.err(); err != nil {
		return nil, err
	}
	return c.f, nil
}

// A confDocument makes a document of a file's blocks.
type confDocument struct {
	o        TargetsConfOptions
	r        *confReader
	f        *File
	errs     Errors
	accounts map[string]bool
	driver   string
}

func (c *confDocument) fail(err error) { c.errs = asErrors(c.errs, err) }

func (c *confDocument) warn(at confLine, format string, args ...any) {
	c.r.warnf(at.file, at.line, format, args...)
}

// one returns a key's value; false where it is not there, or is a mistake, which has been told.
func (c *confDocument) one(b *confBlock, key string) (confValue, bool) {
	v, ok, err := b.one(key)
	c.fail(err)
	return v, ok && err == nil
}

func (c *confDocument) globals(root *confBlock) {
	doc := &c.f.Document
	c.driver = "iscsi"
	for _, key := range slices.Sorted(maps.Keys(root.values)) {
		v := root.values[key][0]
		switch key {
		case "default-driver":
			if v, ok := c.one(root, key); ok {
				c.driver = v.text
			}
		case "incomingdiscoveryuser", "outgoingdiscoveryuser":
			v, ok := c.one(root, key)
			if !ok {
				continue
			}
			if name, ok := c.account(v, key); ok {
				c.f.Has |= Discovery
				if key == "outgoingdiscoveryuser" {
					doc.Discovery.Outgoing = name
				} else {
					doc.Discovery.Incoming = []string{name}
				}
			}
		case "iSNS", "iSNSServerIP", "iSNSServerPort", "iSNSAccessControl":
			if v, ok := c.one(root, key); ok {
				c.isns(key, v)
			}
		case "ignore-errors", "control-port":
			c.warn(v.at, "%s is about how tgt-admin runs, and is left out", key)
		case "target":
			c.fail(v.errorf("target: want <target NAME> … </target>"))
		default:
			c.warn(v.at, "tgt has no directive %s; it is left out", key)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(root.blocks)) {
		if kind != "target" {
			at := root.blocks[kind].at
			c.warn(at, "tgt has no block <%s>; it is left out", kind)
		}
	}
}

func (c *confDocument) isns(key string, v confValue) {
	i := &c.f.Document.System.ISNS
	switch key {
	case "iSNS":
		if v.text == "On" {
			c.warn(v.at, "iSNS On: lunar registers at no iSNS server")
		}
	case "iSNSServerIP":
		c.f.isns = true
		i.Server = v.text
	case "iSNSServerPort":
		n, _, ok := tgtvolume.Number(v.text)
		if !ok || n < 0 || n > 65535 {
			c.fail(v.errorf("iSNSServerPort %s: want a port", v.text))
			return
		}
		c.f.isns = true
		i.Port = int(n)
	case "iSNSAccessControl":
		c.f.isns = true
		i.AccessControl = v.text == "On"
	}
}

// account reads NAME PASSWORD. The first password of a name stays.
func (c *confDocument) account(v confValue, key string) (name string, ok bool) {
	words := strings.Split(v.text, " ")
	if len(words) < 2 || words[0] == "" || words[1] == "" {
		c.fail(v.errorf("%s: want NAME PASSWORD", key))
		return "", false
	}
	if len(words) > 2 {
		c.warn(v.at, "%s %s: of what follows the name the first word is the password", key, words[0])
	}
	a := spec.Account{Name: words[0], Secret: words[1]}
	doc := &c.f.Document
	if c.accounts[a.Name] {
		i := slices.IndexFunc(doc.Accounts, func(o spec.Account) bool { return o.Name == a.Name })
		if doc.Accounts[i].Secret != a.Secret {
			c.warn(v.at, "%s %s: another password than above; the first one counts", key, a.Name)
		}
		return a.Name, true
	}
	if err := a.CheckAccount(); err != nil {
		c.fail(v.errorf("%s: %v", key, err))
		return "", false
	}
	if !c.r.private && len(doc.Accounts) == 0 {
		c.warn(v.at, "there are passwords in the file, which others may read; chmod 600 it")
	}
	c.accounts[a.Name] = true
	doc.Accounts = append(doc.Accounts, a)
	return a.Name, true
}

// targets makes the targets in the order of their names, and gives each its TID: its controller_tid, or the one after the last.
func (c *confDocument) targets(root *confBlock) {
	g := root.blocks["target"]
	if g == nil {
		return
	}
	doc := &c.f.Document
	tid := 0
	tids := map[int]string{}
	for _, name := range slices.Sorted(maps.Keys(g.named)) {
		b := g.named[name]
		t := spec.Target{Name: name, ExactNames: true, TgtNaming: true}
		if strings.IndexFunc(name, func(r rune) bool { return !tgtNameChar(r) }) >= 0 {
			c.fail(&Error{File: b.at.file, Line: b.at.line, Text: fmt.Sprintf("target name %q: letters, digits, ':', '.' and '-' may be in it", name)})
			continue
		}
		if v, ok := c.one(b, "controller_tid"); ok {
			n, err := strconv.ParseInt(v.text, 10, 32)
			if err != nil || n < 1 {
				c.fail(v.errorf("controller_tid %s: want a number from 1", v.text))
				continue
			}
			tid = int(n)
		} else {
			tid++
			c.f.renumber[name] = true
		}
		if other, ok := tids[tid]; ok {
			c.fail(&Error{File: b.at.file, Line: b.at.line, Text: fmt.Sprintf("target %s: TID %d is that of target %s", name, tid, other)})
			continue
		}
		tids[tid] = name
		t.TID = tid
		c.target(b, &t)
		doc.Targets = append(doc.Targets, t)
	}
	slices.SortFunc(doc.Targets, func(a, b spec.Target) int { return a.TID - b.TID })
}

func tgtNameChar(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == ':' || r == '.' || r == '-'
}

// confParams are the negotiation keys that tgt-admin hands on.
var confParams = []string{
	"MaxRecvDataSegmentLength", "MaxXmitDataSegmentLength", "HeaderDigest", "DataDigest", "InitialR2T", "MaxOutstandingR2T", "ImmediateData",
	"FirstBurstLength", "MaxBurstLength", "DataPDUInOrder", "DataSequenceInOrder", "ErrorRecoveryLevel", "IFMarker", "OFMarker",
	"DefaultTime2Wait", "DefaultTime2Retain", "OFMarkInt", "IFMarkInt", "MaxConnections",
}

func (c *confDocument) target(b *confBlock, t *spec.Target) {
	driver := c.driver
	if v, ok := c.one(b, "driver"); ok {
		driver = v.text
	}
	if driver != "iscsi" {
		c.fail(&Error{File: b.at.file, Line: b.at.line, Text: fmt.Sprintf("target %s: driver %s: lunar serves iscsi", t.Name, driver)})
	}
	for _, key := range slices.Sorted(maps.Keys(b.values)) {
		list, err := b.all(key)
		if err != nil {
			c.fail(err)
			continue
		}
		first := list[0]
		switch {
		case key == "backing-store", key == "direct-store", key == "controller_tid", key == "driver", isLUNKey(key):
		case key == "initiator-address", key == "initiator-name":
			c.access(t, key, list)
		case key == "incominguser":
			for _, v := range list {
				if name, ok := c.account(v, key); ok {
					if slices.Contains(t.Auth.Incoming, name) {
						c.fail(v.errorf("incominguser %s is there twice", name))
						continue
					}
					t.Auth.Incoming = append(t.Auth.Incoming, name)
				}
			}
		case key == "outgoinguser":
			c.firstOnly(key, list)
			if name, ok := c.account(first, key); ok {
				t.Auth.Outgoing = name
			}
		case key == "state":
			c.firstOnly(key, list)
			if first.text != "ready" && first.text != "offline" {
				c.fail(first.errorf("state %s: want ready or offline", first.text))
			}
			t.Offline = first.text == "offline"
		case slices.Contains(confParams, key):
			c.firstOnly(key, list)
			c.param(t, key, first)
		case key == "block-size":
			c.warn(first.at, "block-size belongs into a <backing-store> block; tgt-admin takes no notice of it here")
		default:
			c.warn(first.at, "tgt-admin takes no notice of %s in a target, and neither does lunar", key)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(b.blocks)) {
		if kind != "backing-store" && kind != "direct-store" {
			c.warn(b.blocks[kind].at, "tgt has no block <%s> in a target; it is left out", kind)
		}
	}
	c.everybody(b, t)
	c.luns(b, t)
}

// everybody opens a target that names nobody, as tgt-admin does, and tells of those that tgt-admin would open though they do.
func (c *confDocument) everybody(b *confBlock, t *spec.Target) {
	names := b.values["initiator-name"]
	switch {
	case len(b.values["initiator-address"]) > 0:
	case len(names) > 0 && !c.o.NamesAdmitAll:
		c.warn(names[0].at, "target %s: only its initiator-name lines admit initiators; tgt-admin would admit everybody, since there is no initiator-address", t.Name)
	default:
		t.Access = append(t.Access, spec.Rule{Address: "ALL"})
	}
}

func (c *confDocument) access(t *spec.Target, key string, list []confValue) {
	for _, v := range list {
		r := spec.Rule{Initiator: v.text}
		if key == "initiator-address" {
			r = spec.Rule{Address: v.text}
			if err := spec.CheckAddress(v.text); err != nil {
				c.warn(v.at, "target %s: the rule matches nobody: %v", t.Name, err)
			}
		}
		if slices.Contains(t.Access, r) {
			c.fail(v.errorf("%s %s is there twice", key, v.text))
			continue
		}
		t.Access = append(t.Access, r)
	}
}

func (c *confDocument) firstOnly(key string, list []confValue) {
	if len(list) > 1 {
		c.warn(list[1].at, "%s is given twice; the first one counts", key)
	}
}

// param sets a negotiation key as tgt's management socket does: numbers are kept in decimal, the obsolete marker intervals as 0.
func (c *confDocument) param(t *spec.Target, key string, v confValue) {
	value := v.text
	if key == "OFMarkInt" || key == "IFMarkInt" {
		value = "0"
	} else if n, _, ok := tgtvolume.Number(value); ok {
		value = strconv.FormatInt(n, 10)
	}
	if err := spec.CheckParam(key, value); err != nil {
		c.fail(v.errorf("%s: %v", key, err))
		return
	}
	if t.Params == nil {
		t.Params = map[string]string{}
	}
	t.Params[key] = value
}

// check is the last look at the whole.
func (c *confDocument) check() {
	if err := c.f.Document.Check(); err != nil {
		c.fail(&Error{Text: err.Error()})
	}
}

// exists reports whether a store can be opened: tgt-admin leaves out files that are not there, and folders.
func exists(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.IsDir() {
		return fmt.Errorf("%s is a folder", path)
	}
	return nil
}
