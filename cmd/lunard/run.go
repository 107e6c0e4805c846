package main

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/sirupsen/logrus"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
	"github.com/lunar-iscsi/lunar/target/evloop"
)

// A face is a way in for administrators. It is there from start on, once everything is loaded, until stop.
type face struct {
	on    bool // somebody has asked for it
	start func(ctx context.Context, m *admin.Manager, log *asyncLog) (stop func(), err error)
}

// faces lists what administrators may come in by.
func (o *options) faces() []face {
	return []face{
		{o.metrics != "", o.startMetrics},
		{o.tgtOn(), o.startTgt},
		{o.admin.on(), o.admin.start},
	}
}

// run serves until a signal comes, or an administrator ends it.
func (o *options) run(ctx context.Context) error {
	exports, err := parseExports(o.exports)
	if err != nil {
		return err
	}
	if err := o.admin.check(); err != nil {
		return err
	}
	if o.empty() {
		return usageError{errors.New("nothing to serve: give --export IQN[/LUN]=URI, --config FILE, --state-dir DIR, or --listen-admin ADDRESS; see lunard --help")}
	}
	if err := o.file.check(); err != nil {
		return err
	}
	portals, err := parsePortals(o.portals, o.bind, exports)
	if err != nil {
		return err
	}
	log, err := newLog(o.logLevel, o.logTo())
	if err != nil {
		return usageError{err}
	}
	defer log.close()
	// gotgt's back ends log to the standard logger what they return as well.
	logrus.SetOutput(io.Discard)
	if err := o.configure(log); err != nil {
		return err
	}
	doc, err := document(exports, portals.groups)
	if err != nil {
		return err
	}
	o.file.named(doc, &portals)
	if err := o.file.read(log); err != nil {
		return err
	}
	o.setProcs(len(doc.Targets) + o.file.size())
	return o.manage(ctx, &portals, exports, doc, log)
}

// empty reports whether nothing would ever be served.
func (o *options) empty() bool {
	return len(o.exports) == 0 && o.cfg.StateDir == "" && !o.file.given() && !o.tgtOn() && !o.admin.given()
}

func (o *options) setProcs(targets int) {
	if o.procs > 0 {
		runtime.GOMAXPROCS(o.procs)
		return
	}
	evloop.SetProcs(min(max(targets, 1), runtime.NumCPU()))
}

// configure completes what the flags have set.
func (o *options) configure(log *asyncLog) error {
	o.cfg.Logger = log
	lim := &o.cfg.Limit
	lim.NOPInterval, lim.NOPTimeout = int64(o.nop.interval), int64(o.nop.timeout)
	lim.DataTimeout = int64(o.data)
	if lim.NOPInterval == 0 {
		lim.NOPInterval = -1
	}
	if o.cfg.LoginFailDelay <= 0 {
		o.cfg.LoginFailDelay = -1
	}
	if err := o.params.Check(); err != nil {
		return usageError{err}
	}
	if o.auth != "" {
		auth, err := readAuth(o.auth, log.Warn)
		if err != nil {
			return err
		}
		o.cfg.Auth = auth
	}
	return o.setTrace(log)
}

// manage makes the manager, lets it serve and ends it. State that is saved is closed last: changes go there until then.
func (o *options) manage(ctx context.Context, portals *portals, exports []export, doc spec.Document, log *asyncLog) (err error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	hup := make(chan os.Signal, 1) // from here on: one that comes during the start would end the process
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	state, err := o.openState(log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, state.close()) }()
	ask := make(chan struct{}, 1) // an administrator asks for the end
	m, err := admin.New(admin.Config{
		Target: o.cfg, Registry: drivers(), State: state.state, Log: log, Audit: log.audit, Wrap: o.traceIO(), SetDebug: log.setDebug, Version: version,
		Shutdown: func() {
			select {
			case ask <- struct{}{}:
			default:
			}
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	bound, err := o.load(ctx, m, portals, doc)
	if err != nil {
		return err
	}
	for _, f := range o.faces() {
		if !f.on {
			continue
		}
		end, err := f.start(ctx, m, log)
		if err != nil {
			return err
		}
		defer end()
	}
	if err := m.Serve(); err != nil {
		return err
	}
	log.Info("serving", "portals", texts(bound), "exports", len(exports))
	if o.hints && len(exports) != 0 {
		printHints(os.Stdout, bound[0], exports)
	}
	sd := newSystemd(m, log)
	defer sd.stop()
	sd.ready()
	if o.ready != nil {
		if err := o.ready(); err != nil {
			return err
		}
	}
	o.wait(ctx, m, sd, hup, ask, log)
	stop() // a second signal ends the process
	sd.stopping()
	o.drainAll(m, log)
	return nil
}

// load makes what is served. The portals of the command line are bound first, so that a start that cannot succeed makes nothing; those that were
// saved, or are in a file, last. None listens before all is there.
func (o *options) load(ctx context.Context, m *admin.Manager, portals *portals, doc spec.Document) ([]netip.AddrPort, error) {
	ctx = admin.WithCaller(ctx, admin.Caller{Face: admin.FaceStart, UID: -1})
	if !portals.optional {
		if _, err := m.PassingPortals(ctx, portals.list, false); err != nil {
			return nil, err
		}
	}
	if err := m.Load(ctx); err != nil {
		return nil, err
	}
	if err := m.Passing(ctx, doc); err != nil {
		return nil, err
	}
	if err := m.LoadPortals(); err != nil {
		return nil, err
	}
	if err := o.file.apply(ctx, m); err != nil {
		return nil, err
	}
	if len(m.Portals()) == 0 {
		if _, err := m.PassingPortals(ctx, portals.list, true); err != nil {
			return nil, err
		}
	}
	var bound []netip.AddrPort
	for _, p := range m.Portals() {
		if p.Bound.IsValid() {
			bound = append(bound, p.Bound)
		}
	}
	return bound, nil
}

// wait returns when the daemon is to end. SIGHUP has it read its files again.
func (o *options) wait(ctx context.Context, m *admin.Manager, sd *systemd, hup <-chan os.Signal, ask <-chan struct{}, log *asyncLog) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-ask:
			return
		case <-hup:
			sd.reloading()
			o.reload(ctx, m, log)
			sd.ready()
		}
	}
}

// drainAll asks the initiators to log out and cuts off who has not in time.
func (o *options) drainAll(m *admin.Manager, log *asyncLog) {
	s := m.Server()
	log.Info("draining", "sessions", s.Sessions())
	ctx, cancel := context.WithTimeout(context.Background(), o.drain)
	defer cancel()
	if err := s.Drain(ctx); err != nil && !errors.Is(err, target.ErrClosed) {
		log.Warn("not every session logged out", "error", err)
	}
}
