package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/target"
)

// version is set by the build (-ldflags -X main.version=…).
var version = "devel"

// The exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
)

// A usageError is a mistake on the command line.
type usageError struct{ error }

func main() {
	if isTgtd(os.Args[0]) {
		os.Exit(tgtdMain(os.Args[1:]))
	}
	o := defaults()
	cmd := o.command()
	err := cmd.ExecuteContext(context.Background())
	if err == nil {
		return
	}
	fmt.Fprintf(os.Stderr, "lunard: %v\n", err)
	var u usageError
	if errors.As(err, &u) {
		os.Exit(exitUsage)
	}
	os.Exit(exitFailed)
}

// options is what the command line says.
type options struct {
	portals  []string
	bind     []string
	exports  []string
	file     configFile
	auth     string
	logLevel string
	recover  string // --recover-state
	trace    []string
	hints    bool
	metrics  string
	admin    grpcOptions
	procs    int
	drain    time.Duration
	cfg      target.Config
	params   *login.Params
	io       func(line string) // of --trace io; nil: off
	data     time.Duration
	nop      struct{ interval, timeout time.Duration }
	tgt      tgtOptions
	syslog   bool         // the log goes to the system's
	ready    func() error // is called when initiators are let in; nil: nobody is
}

func defaults() *options {
	o := &options{logLevel: "warn", drain: 10 * time.Second}
	o.cfg.Login = login.Defaults()
	o.params = &o.cfg.Login.Params
	return o
}

// long is what lunard is and how it is called.
func long() string {
	return `lunard serves volumes as iSCSI disks: local files and devices, memory, images of Ceph, Curve and Longhorn, NBD exports.

Each --export puts one volume behind one LUN of one target. Without /LUN it is LUN 1; LUN 0 is then a controller, as
with tgt. A volume is a URI with options in its query:

` + volumeHelp() + `
Options that every disk takes:
  blocksize=512|4096   logical block size (default 512)
  physical=BYTES       physical block size to show (default 4096 or the volume's)
  readonly             no writes
  vendor= product= serial=
                       identification, at most 8, 16 and 36 characters
  timeout=30s on_timeout=wait|error
                       how long a command may wait for the volume, and whether it then waits on or is
                       answered NOT READY
  away=offline         a volume that cannot be opened leaves its LUN there, NOT READY, and is tried again,
                       rather than fail the start

A portal is an address to listen on. 0.0.0.0 and [::] stand for every address of IPv4 and of IPv6; discovery then tells
an initiator the one that it came in on, or what advertise= says. Portals with one group= are one target port, others
are ports of their own, which is what multipath wants; --bind keeps a target to some of the groups.

With --state-dir the daemon serves what was set when it last ran, besides what the command line names; then there need be no
--export. The default portals are for where no other portal is given or kept.

SIGINT or SIGTERM asks the initiators to log out, waits for --drain-timeout and ends; a second one ends at once.

Called tgtd it has tgtd's flags and lets tgt's tools in: see docs/tgt.md.`
}

const examples = `  # a 1 GiB sparse file, made on the first start, for initiators on this machine
  lunard --portal 127.0.0.1:3260 --export 'iqn.2026-11.io.lunar:disk=file:///srv/disk.img?size=1G'

  # two disks of one target, with a password, on IPv4 and IPv6
  lunard --portal 192.0.2.1:3260 --portal '[2001:db8::1]:3260' --auth /etc/lunar/auth \
      --export iqn.2026-11.io.lunar:db/1=file:///dev/vg0/db --export iqn.2026-11.io.lunar:db/2=file:///dev/vg0/log

  # two paths for multipath, each a target port of its own; and a disk that only the first network reaches
  lunard --portal 192.0.2.1:3260,group=1 --portal 198.51.100.1:3260,group=2 --bind iqn.2026-11.io.lunar:near=1 \
      --export iqn.2026-11.io.lunar:both=file:///dev/vg0/both --export iqn.2026-11.io.lunar:near=file:///dev/vg0/near

  # an NBD export
  lunard --export 'iqn.2026-11.io.lunar:nbd=nbd+unix:///disk?socket=/run/q.sock'`

func (o *options) command() *cobra.Command {
	cmd := &cobra.Command{
		Use: "lunard --export IQN[/LUN]=URI … [flags]", Short: "lunar's iSCSI target daemon", Long: long(), Example: examples, Version: version,
		SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 {
				return usageError{fmt.Errorf("unexpected argument %q; see lunard --help", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see lunard --help", err)}
	})
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVar(&o.portals, "portal", nil, "`ADDR:PORT[,group=N][,advertise=HOST:PORT]` to listen on, IPv6 in brackets; repeatable (default 0.0.0.0:3260 and [::]:3260)")
	f.StringArrayVar(&o.exports, "export", nil, "`IQN[/LUN]=URI` to serve; repeatable")
	o.file.flags(f)
	f.StringArrayVar(&o.bind, "bind", nil, "`IQN=N[,N…]`: only these portal groups lead to the target; repeatable (default: all do)")
	f.StringVar(&o.auth, "auth", "", "`FILE` of CHAP accounts, mode 0600: lines \"in NAME SECRET\" (who may log in) and \"out NAME SECRET\" (who we are, for mutual CHAP); for discovery and every target that names no account of its own")
	f.StringVar(&o.cfg.StateDir, "state-dir", "", "`DIR` that keeps what is set while the daemon runs, and persistent reservations, for the next start; what the command line names is of this run only and not kept")
	f.StringVar(&o.recover, "recover-state", "", "`WAY` out of a damaged state file, which is kept under another name: salvage (what is ahead of the damage), previous (the older file beside it) or discard (nothing)")
	f.StringVar(&o.logLevel, "log-level", o.logLevel, "what to log: debug, info, warn or error")
	f.StringSliceVar(&o.trace, "trace", nil, "log every `KIND` of event: pdu, scsi, io (comma separated; slow)")
	o.admin.flags(f)
	f.StringVar(&o.metrics, "metrics", "", "`ADDR:PORT` to serve metrics for Prometheus on, at /metrics; anyone who can connect may read them")
	o.tgtFlags(f)
	f.BoolVar(&o.hints, "hints", false, "print how to attach the disks once they are served")

	c, l := &o.cfg, &o.cfg.Limit
	l.Window, l.Immediate = 128, 64
	f.Uint32Var(&l.Window, "command-window", l.Window, "commands that one session may have outstanding")
	f.IntVar(&c.MaxSessions, "max-sessions", target.DefaultMaxSessions, "sessions in all")
	f.IntVar(&c.MaxLogins, "max-logins", target.DefaultMaxLogins, "connections in login or discovery at once")
	f.IntVar(&c.MaxLoginsPerIP, "max-logins-per-address", target.DefaultMaxLoginsPerIP, "of these, from one address")
	f.IntVar(&c.MaxTurnAways, "max-turn-aways", target.DefaultMaxTurnAways, "connections beyond these that are told to try again, at once; further ones are closed")
	f.DurationVar(&c.LoginFailDelay, "login-fail-delay", target.DefaultLoginFailDelay, "longest wait for the answer to a wrong password, reached after a few from one address; 0: none")
	f.DurationVar(&c.LoginTimeout, "login-timeout", target.DefaultLoginTimeout, "time to log in")
	f.DurationVar(&c.DiscoveryTime, "discovery-timeout", target.DefaultDiscoveryTime, "time a discovery session may last")
	f.DurationVar(&o.nop.interval, "nop-interval", 60*time.Second, "silence before an initiator is pinged; 0 never pings")
	f.DurationVar(&o.nop.timeout, "nop-timeout", 30*time.Second, "time to answer a ping")
	f.DurationVar(&o.drain, "drain-timeout", o.drain, "time initiators get to log out before the daemon ends")
	f.Int64Var(&c.BufferBytes, "buffer-bytes", target.DefaultBufferBytes, "memory for data on its way")
	f.DurationVar(&c.SendTimeout, "send-timeout", target.DefaultSendTimeout, "time an initiator may take nothing of what waits for it")
	f.DurationVar(&o.data, "data-timeout", time.Duration(session.DefaultDataTimeout), "time without any of a write's data that was asked for or announced")
	f.IntVar(&c.MaxBacklog, "max-backlog", target.DefaultMaxBacklog, "unsent bytes of a connection before its reads wait")
	f.DurationVar(&c.Spin, "spin", 0, "busy polling of a loop before it sleeps")
	f.IntVar(&o.procs, "procs", 0, "GOMAXPROCS (default: hot targets + 1, at least CPUs + 2)")

	p := o.params
	yes := func(name string, v *bool, usage string) { f.BoolVar(v, name, *v, usage) }
	yes("initial-r2t", &p.InitialR2T, "negotiate InitialR2T=Yes: no unsolicited data beyond immediate")
	yes("immediate-data", &p.ImmediateData, "allow immediate data")
	f.Uint32Var(&p.FirstBurstLength, "first-burst", p.FirstBurstLength, "FirstBurstLength, bytes")
	f.Uint32Var(&p.MaxBurstLength, "max-burst", p.MaxBurstLength, "MaxBurstLength, bytes")
	f.Uint32Var(&p.MaxRecvDataSegmentLength, "max-recv-data-segment", p.MaxRecvDataSegmentLength, "MaxRecvDataSegmentLength, bytes")
	f.Uint16Var(&p.MaxOutstandingR2T, "max-outstanding-r2t", p.MaxOutstandingR2T, "R2Ts outstanding for one command")
	f.Var(digestFlag{&p.HeaderDigest, &c.Login.RequireHeaderDigest}, "header-digest", "CRC32C over headers: allow (the initiator's order decides), require or none")
	f.Var(digestFlag{&p.DataDigest, &c.Login.RequireDataDigest}, "data-digest", "CRC32C over data: allow, require or none; costs processor time")
	f.BoolVar(&c.Login.ForbidMD5, "forbid-md5", false, "refuse CHAP with MD5")
	return cmd
}
