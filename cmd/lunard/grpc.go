package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/grpcd"
)

// grpcStop is how long calls under way have when the daemon ends.
const grpcStop = 5 * time.Second

// noAdmin is the word for no gRPC at all.
const noAdmin = "none"

// grpcOptions are the way in for lunarctl and programs.
type grpcOptions struct {
	listen []string // empty: the default socket, where it can be had
	tls    grpcd.TLSFiles
}

func (g *grpcOptions) flags(f *pflag.FlagSet) {
	f.StringArrayVar(&g.listen, "listen-admin", nil, "`ADDRESS` for lunarctl and gRPC: unix:PATH[,mode=OCTAL], tcp:ADDR:PORT (with the certificates below), or none; repeatable (default unix:"+grpcd.DefaultSocket+", of root; without root in $XDG_RUNTIME_DIR/lunar)")
	f.StringVar(&g.tls.Cert, "admin-cert", "", "`FILE` of this daemon's certificate for tcp:, PEM; it is read again when it changes, and so are the other two")
	f.StringVar(&g.tls.Key, "admin-key", "", "`FILE` of its key, PEM")
	f.StringVar(&g.tls.ClientCA, "admin-ca", "", "`FILE` of the CA of the certificates of those who may administer, PEM")
}

// given reports whether somebody asked for a way in.
func (g *grpcOptions) given() bool { return len(g.listen) > 0 && g.listen[0] != noAdmin }

// on reports whether there is to be one.
func (g *grpcOptions) on() bool { return len(g.listen) == 0 || g.given() }

// check says what makes no sense, before anything is made.
func (g *grpcOptions) check() error {
	tcp := false
	for _, a := range g.listen {
		if a == noAdmin && len(g.listen) > 1 {
			return usageError{errors.New("--listen-admin none goes with no other")}
		}
		if a == noAdmin {
			continue
		}
		if err := grpcd.CheckAddress(a); err != nil {
			return usageError{fmt.Errorf("--listen-admin: %w", err)}
		}
		tcp = tcp || strings.HasPrefix(a, "tcp:")
	}
	switch some := g.tls != (grpcd.TLSFiles{}); {
	case tcp || some && g.tls.Check() != nil:
		if err := g.tls.Check(); err != nil {
			return usageError{fmt.Errorf("%w: give --admin-cert, --admin-key and --admin-ca", err)}
		}
	case some:
		return usageError{errors.New("--admin-cert, --admin-key and --admin-ca are for --listen-admin tcp:ADDR:PORT")}
	}
	return nil
}

// start serves the service on every address. Where nobody asked for one, the default socket is done without if it cannot be had: another
// daemon may have it.
func (g *grpcOptions) start(_ context.Context, m *admin.Manager, log *asyncLog) (func(), error) {
	cfg := grpcd.Config{Logger: log}
	if g.tls != (grpcd.TLSFiles{}) {
		cfg.TLS = &g.tls
	}
	s, err := grpcd.New(m, cfg)
	if err != nil {
		return nil, err
	}
	addresses := g.listen
	if len(addresses) == 0 {
		addresses = []string{"unix:" + grpcd.DefaultPath()}
	}
	var open []*grpcd.Listener
	for _, a := range addresses {
		l, err := grpcd.Listen(a)
		if err == nil {
			open = append(open, l)
			continue
		}
		if len(g.listen) == 0 {
			tell := log.Warn
			if errors.Is(err, grpcd.ErrInUse) {
				tell = log.Info // one of many daemons
			}
			tell("lunarctl cannot come in: give --listen-admin another address, or none", "error", err)
			return func() {}, nil
		}
		for _, l := range open {
			l.Close()
		}
		return nil, err
	}
	ended := make(chan struct{}, len(open))
	for _, l := range open {
		log.Info("administration", "address", l.String())
		go func() {
			if err := s.Serve(l); err != nil {
				log.Warn("an address of the administration is not served any more", "address", l.String(), "error", err)
			}
			ended <- struct{}{}
		}()
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), grpcStop)
		defer cancel()
		s.Stop(ctx)
		for range open {
			<-ended
		}
	}, nil
}
