package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/curve"
	"github.com/lunar-iscsi/lunar/backstore/faulty"
	"github.com/lunar-iscsi/lunar/backstore/file"
	"github.com/lunar-iscsi/lunar/backstore/gotgt"
	"github.com/lunar-iscsi/lunar/backstore/longhorn"
	"github.com/lunar-iscsi/lunar/backstore/mem"
	"github.com/lunar-iscsi/lunar/backstore/nbd"
	"github.com/lunar-iscsi/lunar/backstore/null"
	"github.com/lunar-iscsi/lunar/backstore/rbd"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/login"
)

// drivers returns what is built in.
func drivers() *backstore.Registry {
	plain := []backstore.Driver{file.Driver(), mem.Driver(), null.Driver(), gotgt.Driver(nil), curve.Driver(), longhorn.Driver()}
	plain = append(plain, nbd.Drivers()...)
	plain = append(plain, rbd.Driver())
	inner := backstore.NewRegistry(plain...)
	return backstore.NewRegistry(append(plain, faulty.Driver(inner))...)
}

// An export is one --export.
type export struct {
	target string // normalised
	lun    uint16
	uri    *backstore.URI
}

// parseExports checks everything that can be checked before anything is opened.
func parseExports(args []string) ([]export, error) {
	var out []export
	seen := map[string]bool{}
	for _, arg := range args {
		e, err := parseExport(arg)
		if err != nil {
			return nil, usageError{fmt.Errorf("--export %s: %w", arg, err)}
		}
		key := fmt.Sprintf("%s/%d", e.target, e.lun)
		if seen[key] {
			return nil, usageError{fmt.Errorf("--export %s: LUN %d of %s is given twice", arg, e.lun, e.target)}
		}
		seen[key] = true
		out = append(out, e)
	}
	return out, nil
}

func parseExport(arg string) (export, error) {
	name, volume, ok := strings.Cut(arg, "=")
	if !ok {
		return export{}, fmt.Errorf("want IQN[/LUN]=URI, for example iqn.2026-11.io.lunar:disk=file:///srv/disk.img")
	}
	e := export{lun: 1}
	if iqn, lun, ok := strings.Cut(name, "/"); ok {
		n, err := strconv.ParseUint(lun, 10, 16)
		if err != nil || n > sam.MaxFlatLUN {
			return export{}, fmt.Errorf("%q is no LUN: want 0 to %d", lun, sam.MaxFlatLUN)
		}
		name, e.lun = iqn, uint16(n)
	}
	var err error
	if e.target, err = login.NormalizeName(name); err != nil {
		return export{}, err
	}
	e.uri, err = backstore.ParseURI(volume)
	return e, err
}

// document says what the exports are in the words of configuration: targets that everybody may use who knows one of --auth's accounts,
// which are the server's own for whatever names none.
func document(exports []export, groups map[string][]uint16) (spec.Document, error) {
	var d spec.Document
	for i := range exports {
		e := &exports[i]
		l, err := e.disk()
		if err != nil {
			return d, fmt.Errorf("target %s LUN %d: %w", e.target, e.lun, err)
		}
		at := slices.IndexFunc(d.Targets, func(t spec.Target) bool { return t.Name == e.target })
		if at < 0 {
			at = len(d.Targets)
			d.Targets = append(d.Targets, spec.Target{TID: at + 1, Name: e.target, Access: []spec.Rule{{Address: "ALL"}}, PortalGroups: groups[e.target]})
		}
		t := &d.Targets[at]
		t.LUNs = append(t.LUNs, l)
		t.NoController = t.NoController || l.Number == 0
	}
	for i := range d.Targets {
		slices.SortFunc(d.Targets[i].LUNs, func(a, b spec.LUN) int { return cmp.Compare(a.Number, b.Number) })
	}
	return d, nil
}

// diskOptions are the options of an export's URI that are the disk's rather than the driver's.
var diskOptions = [...]string{"blocksize", "physical", "readonly", "vendor", "product", "serial", "timeout", "on_timeout", "away"}

// disk reads the options that are the disk's rather than the driver's.
func (e *export) disk() (spec.LUN, error) {
	u := e.uri
	l := spec.LUN{Number: e.lun, Volume: without(u.String(), diskOptions[:])}
	block, err := u.Size("blocksize", 512)
	if err != nil {
		return l, err
	}
	physical, err := u.Size("physical", 0)
	if err != nil {
		return l, err
	}
	if block != 512 && block != 4096 {
		return l, fmt.Errorf("%s: option blocksize=%d: want 512 or 4096", u, block)
	}
	if text, ok := u.Peek("size"); ok {
		// Before a file of that size is made.
		size, err := backstore.ParseSize(text)
		if err != nil {
			return l, fmt.Errorf("%s: option size: %w", u, err)
		}
		if size == 0 || size%block != 0 {
			return l, fmt.Errorf("%s: option size: %d bytes is no positive multiple of the block of %d bytes", u, size, block)
		}
	}
	if l.ReadOnly, err = u.Bool("readonly", false); err != nil {
		return l, err
	}
	l.BlockSize, l.PhysicalBlock = int(block), int(physical)
	for _, o := range []struct {
		name string
		p    *string
		max  int
	}{{"vendor", &l.Vendor, 8}, {"product", &l.Product, 16}, {"serial", &l.Serial, 36}} {
		if *o.p, _ = u.Option(o.name); len(*o.p) > o.max {
			return l, fmt.Errorf("%s: option %s=%s: at most %d characters", u, o.name, *o.p, o.max)
		}
	}
	if text, ok := u.Option("timeout"); ok {
		d, err := time.ParseDuration(text)
		if err != nil || d < time.Second || d > spec.MaxTimeout*time.Second || d%time.Second != 0 {
			return l, fmt.Errorf("%s: option timeout=%s: want whole seconds, from 1s to 24h", u.Shown(), text)
		}
		l.Timeout = int(d / time.Second)
	}
	// Whoever names a volume on the command line is there to see that it cannot be opened.
	l.Away = spec.AwayFail
	for _, o := range []struct {
		name string
		p    *string
		one  []string
	}{{"on_timeout", &l.OnTimeout, []string{spec.TimeoutWait, spec.TimeoutError}}, {"away", &l.Away, []string{spec.AwayOffline, spec.AwayFail}}} {
		if text, ok := u.Option(o.name); ok {
			if !slices.Contains(o.one, text) {
				return l, fmt.Errorf("%s: option %s=%s: want %s", u.Shown(), o.name, text, strings.Join(o.one, " or "))
			}
			*o.p = text
		}
	}
	l.Identity = l.Serial // a serial number that was given says which disk it is, wherever its volume lies
	return l, nil
}

// without is the text of a URI without some of its options.
func without(uri string, options []string) string {
	path, query, _ := strings.Cut(uri, "?")
	var keep []string
	for o := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(o, "=")
		if o != "" && !slices.Contains(options, name) {
			keep = append(keep, o)
		}
	}
	if len(keep) == 0 {
		return path
	}
	return path + "?" + strings.Join(keep, "&")
}
