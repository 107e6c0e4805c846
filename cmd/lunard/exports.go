package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/faulty"
	"github.com/lunar-iscsi/lunar/backstore/file"
	"github.com/lunar-iscsi/lunar/backstore/mem"
	"github.com/lunar-iscsi/lunar/backstore/nbd"
	"github.com/lunar-iscsi/lunar/backstore/null"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/target"
)

// volumeHelp says how volumes are named; a test holds it against the drivers.
const volumeHelp = `  file:///PATH?size=1G            a file or block device; size= makes a missing file, sparse unless thin=off
                                  direct=on (O_DIRECT), cache=writethrough, shared=on (others may write it too)
  mem:?size=64M                   memory, gone when the daemon ends
  null:?size=1T                   reads zeroes, drops writes: for measurements
  nbd://HOST:PORT/EXPORT          an NBD export over TCP
  nbd+unix:///EXPORT?socket=PATH  an NBD export over a unix socket
`

// drivers returns what is built in.
func drivers() *backstore.Registry {
	plain := []backstore.Driver{file.Driver(), mem.Driver(), null.Driver()}
	plain = append(plain, nbd.Drivers()...)
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

func countTargets(exports []export) int {
	names := map[string]bool{}
	for _, e := range exports {
		names[e.target] = true
	}
	return len(names)
}

// volumeKey tells whether two exports name one volume.
func (e *export) volumeKey() string { return e.uri.Scheme + "\x00" + e.uri.Host + "\x00" + e.uri.Path }

// shareable reports whether two exports of one URI mean the same data: every mem and null volume is its own.
func (e *export) shareable() bool { return e.uri.Path != "" }

// addExports makes the targets and opens their volumes. An export of a volume that an earlier one serves already becomes
// another way to the same logical unit.
func addExports(ctx context.Context, s *target.Server, exports []export, groups map[string][]uint16, log *asyncLog, wrap func(export, backstore.Store) backstore.Store) error {
	reg := drivers()
	first := map[string]*export{}
	loopOf := loopsOf(exports)
	for i := range exports {
		e := &exports[i]
		t := s.Target(e.target)
		var same *export
		if e.shareable() {
			same = first[e.volumeKey()]
		}
		if t == nil {
			var err error
			if t, err = s.AddTarget(e.target, target.TargetConfig{LoopOf: s.Target(loopOf[e.target]), PortalGroups: groups[e.target]}); err != nil {
				return err
			}
		}
		if same != nil {
			log.Info("one volume behind two targets: they share one loop", "volume", e.uri.String(), "targets", []string{same.target, e.target})
			if err := t.ShareDisk(e.lun, s.Target(same.target), same.lun); err != nil {
				return err
			}
			continue
		}
		st, cfg, err := open(ctx, reg, e, log)
		if err != nil {
			return fmt.Errorf("target %s LUN %d: %w", e.target, e.lun, err)
		}
		if wrap != nil {
			st = wrap(*e, st)
		}
		if err := t.AddDisk(e.lun, st, cfg); err != nil {
			return err
		}
		first[e.volumeKey()] = e
	}
	return nil
}

// loopsOf says on whose loop each target is to be: all targets that have a volume in common, of whichever of their LUNs, share that of the one
// named first, and so do those that have one in common with these.
func loopsOf(exports []export) map[string]string {
	leader := map[string]string{}
	first := map[string]*export{}
	for i := range exports {
		e := &exports[i]
		if leader[e.target] == "" {
			leader[e.target] = e.target
		}
		if !e.shareable() {
			continue
		}
		f := first[e.volumeKey()]
		if f == nil {
			first[e.volumeKey()] = e
			continue
		}
		a, b := leader[f.target], leader[e.target]
		if slices.IndexFunc(exports, func(x export) bool { return x.target == a }) > slices.IndexFunc(exports, func(x export) bool { return x.target == b }) {
			a, b = b, a
		}
		for name, l := range leader {
			if l == b {
				leader[name] = a
			}
		}
	}
	for name, l := range leader {
		if name == l {
			delete(leader, name)
		}
	}
	return leader
}

// open opens an export's volume and says how it shows itself as a disk.
func open(ctx context.Context, reg *backstore.Registry, e *export, log *asyncLog) (backstore.Store, scsi.DiskConfig, error) {
	cfg, err := diskConfig(e)
	if err != nil {
		return nil, cfg, err
	}
	st, err := reg.Open(ctx, e.uri, backstore.Options{ReadOnly: cfg.ReadOnly, Warn: func(line string) { log.Warn(line, "target", e.target, "lun", e.lun) }})
	if err != nil {
		return nil, cfg, fmt.Errorf("%s: %w", e.uri, err)
	}
	info := st.Info()
	switch {
	case cfg.Serial != "":
		cfg.Identity = cfg.Serial
	case info.Identity != "":
	case !e.shareable():
		cfg.Identity = rand.Text() // new data at every start is a new volume
	default:
		// The engine names the volume by nothing lasting. A target name is unique in the world (RFC 7143 §4.2.7), and what
		// it calls a LUN stays the same disk as long as the configuration does.
		cfg.Identity = fmt.Sprintf("%s/%d", e.target, e.lun)
	}
	return st, cfg, nil
}

// diskConfig reads the options that are the disk's rather than the driver's.
func diskConfig(e *export) (scsi.DiskConfig, error) {
	u := e.uri
	var cfg scsi.DiskConfig
	block, err := u.Size("blocksize", 512)
	if err != nil {
		return cfg, err
	}
	physical, err := u.Size("physical", 0)
	if err != nil {
		return cfg, err
	}
	if block != 512 && block != 4096 {
		return cfg, fmt.Errorf("%s: option blocksize=%d: want 512 or 4096", u, block)
	}
	if text, ok := u.Peek("size"); ok {
		// Before a file of that size is made.
		size, err := backstore.ParseSize(text)
		if err != nil {
			return cfg, fmt.Errorf("%s: option size: %w", u, err)
		}
		if size == 0 || size%block != 0 {
			return cfg, fmt.Errorf("%s: option size: %d bytes is no positive multiple of the block of %d bytes", u, size, block)
		}
	}
	if cfg.ReadOnly, err = u.Bool("readonly", false); err != nil {
		return cfg, err
	}
	cfg.LogicalBlock, cfg.PhysicalBlock = int(block), int(physical)
	for _, o := range []struct {
		name string
		p    *string
		max  int
	}{{"vendor", &cfg.Vendor, 8}, {"product", &cfg.Product, 16}, {"serial", &cfg.Serial, 36}} {
		if *o.p, _ = u.Option(o.name); len(*o.p) > o.max {
			return cfg, fmt.Errorf("%s: option %s=%s: at most %d characters", u, o.name, *o.p, o.max)
		}
	}
	return cfg, nil
}
