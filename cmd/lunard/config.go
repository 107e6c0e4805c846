package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/config"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

// faceFile is the face of changes that a file asks for.
const faceFile = "file"

// A configFile is the file that says what is served besides the command line.
type configFile struct {
	path     string        // of lunar's own kind
	targets  string        // a targets.conf
	admitAll bool          // names in a targets.conf do not keep others out
	line     spec.Document // what the command line names
	file     *config.File  // what was read last; nil: none is given
}

func (c *configFile) flags(f *pflag.FlagSet) {
	f.StringVar(&c.path, "config", "", "`FILE` that says what to serve, read again on SIGHUP: see docs/config.md")
	f.StringVar(&c.targets, "targets-conf", "", "`FILE` of tgt-admin's, read as it does, instead of --config")
	f.BoolVar(&c.admitAll, "names-admit-all", false, "in a targets.conf, open targets that have names and no addresses to everybody, as tgt-admin does")
}

func (c *configFile) given() bool { return c.path != "" || c.targets != "" }

func (c *configFile) check() error {
	switch {
	case c.path != "" && c.targets != "":
		return usageError{errors.New("--config and --targets-conf: give one")}
	case c.admitAll && c.targets == "":
		return usageError{errors.New("--names-admit-all is about --targets-conf")}
	}
	return nil
}

// read reads the file, if there is one. What is to be known of it is logged.
func (c *configFile) read(log *asyncLog) error {
	var f *config.File
	var err error
	switch {
	case c.path != "":
		f, err = config.Load(c.path, config.Options{})
	case c.targets != "":
		f, err = config.LoadTargetsConf(c.targets, config.TargetsConfOptions{NamesAdmitAll: c.admitAll, Known: hasDriver})
	default:
		return nil
	}
	if err != nil {
		return err
	}
	for _, w := range f.Warnings {
		log.Warn(w)
	}
	c.file = f
	return nil
}

// size is how many targets the file has.
func (c *configFile) size() int {
	if c.file == nil {
		return 0
	}
	return len(c.file.Document.Targets)
}

func hasDriver(scheme string) bool {
	for _, d := range drivers().Drivers() {
		if d.Scheme == scheme {
			return true
		}
	}
	return false
}

// named notes what the command line names, which no file takes away. The default portals are nobody's choice: a file with portals has
// them closed.
func (c *configFile) named(doc spec.Document, p *portals) {
	c.line = doc
	if !p.optional {
		c.line.Portals = slices.Clone(p.list)
	}
}

// apply makes what is set equal to what the file says, as it was read last.
func (c *configFile) apply(ctx context.Context, m *admin.Manager) error {
	if c.file == nil {
		return nil
	}
	have := m.Document()
	want, err := c.file.Beside(&have, &c.line)
	if err != nil {
		return err
	}
	steps, err := m.Apply(ctx, want, admin.ApplyOptions{Away: spec.AwayOffline})
	if done := slices.IndexFunc(steps, func(s admin.Step) bool { return !s.Done }); err != nil && done > 0 {
		return fmt.Errorf("%w; %d changes were made before", err, done)
	}
	return err
}

// reload reads the file that says what is served again, and changes what differs. If something is wrong with it, nothing changes.
func (o *options) reload(ctx context.Context, m *admin.Manager, log *asyncLog) {
	if !o.file.given() {
		log.Warn("asked to reload, but no file says what is served: nothing changes")
		return
	}
	if err := o.file.read(log); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			log.Warn("asked to reload: nothing changes", "error", line)
		}
		return
	}
	ctx = admin.WithCaller(ctx, admin.Caller{Face: faceFile, UID: -1})
	if err := o.file.apply(ctx, m); err != nil {
		log.Warn("asked to reload: the file could not be applied", "error", err)
		return
	}
	log.Info("the configuration file is applied")
}
