package main

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/admin/tgtipc"
)

// noPort is --control-port where tgt's management socket is not wanted.
const noPort = -1

// tgtOptions are of tgt's management socket.
type tgtOptions struct {
	port   int    // control port; noPort: none
	prefix string // of the socket; empty: $TGT_IPC_SOCKET, or tgt's own
	// edit is what tgtd's own command line sets of the system; nil: nothing.
	edit func(*spec.System) error
}

func (o *options) tgtFlags(f *pflag.FlagSet) {
	f.IntVar(&o.tgt.port, "control-port", noPort, "let tgt's tgtadm and tgt-admin in by control port `N`, the socket /var/run/tgtd/socket.N or $TGT_IPC_SOCKET.N; lunard called tgtd has N 0 (default: they are not let in)")
	f.Lookup("control-port").DefValue = "0" // -1 is not for people: the help would show it
	f.StringVar(&o.tgt.prefix, "tgt-socket", "", "`PREFIX` of that socket instead, with N 0 unless it is given")
}

// tgtOn reports whether tgt's tools are let in.
func (o *options) tgtOn() bool { return o.tgt.port != noPort || o.tgt.prefix != "" }

// startTgt lets tgt's tools in.
func (o *options) startTgt(ctx context.Context, m *admin.Manager, log *asyncLog) (func(), error) {
	port := max(o.tgt.port, 0)
	if port > tgtipc.MaxPort {
		return nil, usageError{fmt.Errorf("--control-port %d: want 0 to %d", port, tgtipc.MaxPort)}
	}
	path, env := tgtipc.SocketPath(port)
	if o.tgt.prefix != "" {
		path, env = fmt.Sprintf("%s.%d", o.tgt.prefix, port), true
	}
	s, err := tgtipc.Listen(tgtipc.Config{Path: path, MakeDir: !env, Logger: log})
	if err != nil {
		return nil, err
	}
	stop := func() {
		ctx, cancel := context.WithTimeout(context.Background(), o.drain)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			log.Warn("the management socket could not be closed in order", "socket", path, "error", err)
		}
	}
	if o.tgt.edit != nil {
		if err := m.EditSystem(admin.WithCaller(ctx, admin.Caller{Face: admin.FaceStart, UID: -1}), o.tgt.edit); err != nil {
			stop()
			return nil, err
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(m); err != nil {
			log.Warn("tgt's tools are not let in any more", "error", err)
		}
	}()
	log.Info("management", "socket", path)
	return func() { stop(); <-done }, nil
}
