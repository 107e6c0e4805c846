package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/initiator/load"
)

const benchHelp = `Put a disk of an iSCSI target under load and measure it.

Without --rate it is a closed loop: each connection keeps --depth commands in flight. With --rate it is an
open loop: so many commands a second arrive as a Poisson process whether the target keeps up or not, and
latency counts from when a command should have started.

--fill and every write put a pattern on the volume in which each byte follows from its offset, DESTROYING
what is there. On a volume (or --region) that was filled, --verify checks what is read. Since a write
always writes what is there already, --verify finds data of another place or from elsewhere, not a lost write.

Exit status: 0 all commands ended well, 1 the run failed or commands did, 2 wrong usage.`

const benchExamples = `  # 4 KiB random reads, 32 in flight, for 10 seconds
  lunarctl bench iscsi://127.0.0.1:3260/iqn.2026-11.example:disk/1

  # fill 1 GiB with the pattern, then a verified mix at 20,000 commands a second
  lunarctl bench --fill --region 1G --rate 20000 --read-percent 70 --verify iscsi://127.0.0.1/iqn.2026-11.example:disk/1

  # sequential writes of 256 KiB, all data solicited by R2T, as JSON
  lunarctl bench --bs 256k --depth 8 --read-percent 0 --sequential --initial-r2t --immediate-data=false --json \
      iscsi://127.0.0.1/iqn.2026-11.example:disk/1

  # eight sessions on an IPv6 portal
  lunarctl bench --connections 8 iscsi://[::1]:3260/iqn.2026-11.example:disk/1`

// benchFlags are the flags whose form is not load.Config's.
type benchFlags struct {
	bs                                byteSize
	firstBurst, maxBurst, mrdsl       byteSize
	seconds, warmup, stall            float64
	random, sequential                bool
	json, progress                    bool
	immediate, initialR2T             bool
	headerDigest, dataDigest, lenient bool
	maxR2T                            uint16
	initiatorName, region             string
}

func newBench() *cobra.Command {
	c := load.Config{}
	f := benchFlags{bs: 4096, firstBurst: 256 << 10, maxBurst: 1 << 20, mrdsl: 256 << 10}
	cmd := &cobra.Command{
		Use: "bench [flags] iscsi://HOST[:PORT]/IQN/LUN", Short: "Put a disk of an iSCSI target under load and measure it",
		Long: benchHelp, Example: benchExamples, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.apply(cmd, &c, args[0]); err != nil {
				return err
			}
			return bench(cmd.Context(), c, f.json, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.Var(&f.bs, "bs", "bytes of one command; k, M, G for binary multiples")
	fs.IntVar(&c.Depth, "depth", 32, "commands in flight a connection; with --rate at most that many (512 if not given)")
	fs.Float64Var(&c.Rate, "rate", 0, "open loop: commands a second over all connections (0: closed loop)")
	fs.IntVar(&c.ReadPercent, "read-percent", 100, "share of reads, 0 to 100; writes DESTROY the volume's content")
	fs.IntVar(&c.FUAPercent, "fua-percent", 0, "share of the writes that have FUA set, 0 to 100")
	fs.IntVar(&c.FlushEvery, "flush-every", 0, "a SYNCHRONIZE CACHE after so many writes of a thread, counted as a write (0: none)")
	fs.BoolVar(&f.random, "random", false, "random offsets (the default)")
	fs.BoolVar(&f.sequential, "sequential", false, "sequential offsets, each connection from a place of its own")
	fs.IntVar(&c.Connections, "connections", 1, "sessions, each on its own connection")
	fs.IntVar(&c.Threads, "threads", 0, "threads that drive them (default: one a connection, at most one a CPU)")
	fs.Float64Var(&f.seconds, "seconds", 10, "seconds that are measured; 0 with --fill: only fill")
	fs.Float64Var(&f.warmup, "warmup", 1, "seconds of load before that")
	fs.Float64Var(&f.stall, "stall", 30, "give up after so many seconds without any command ending")
	fs.BoolVar(&c.Fill, "fill", false, "write the pattern to the whole region first, DESTROYING its content")
	fs.IntVar(&c.Verify, "verify", 0, "check the content of one read in so many against the pattern (--verify alone: 64)")
	fs.Lookup("verify").NoOptDefVal = "64"
	fs.StringVar(&f.region, "region", "", "use only SIZE or OFFSET+SIZE bytes of the volume")
	fs.Uint64Var(&c.Seed, "seed", 1, "seed of offsets, mix and arrivals")
	fs.BoolVar(&f.immediate, "immediate-data", true, "offer ImmediateData=Yes")
	fs.BoolVar(&f.initialR2T, "initial-r2t", false, "demand InitialR2T=Yes: no unsolicited Data-Out")
	fs.Var(&f.firstBurst, "first-burst", "FirstBurstLength to offer")
	fs.Var(&f.maxBurst, "max-burst", "MaxBurstLength to offer")
	fs.Var(&f.mrdsl, "mrdsl", "MaxRecvDataSegmentLength to declare")
	fs.Uint16Var(&f.maxR2T, "max-outstanding-r2t", 8, "MaxOutstandingR2T to offer")
	fs.BoolVar(&f.headerDigest, "header-digest", false, "offer CRC32C header digests")
	fs.BoolVar(&f.dataDigest, "data-digest", false, "offer CRC32C data digests")
	fs.StringVar(&f.initiatorName, "initiator", initiator.DefaultInitiatorName, "our name")
	fs.BoolVar(&f.lenient, "lenient", false, "overlook what no initiator acts on: ExpDataSN, StatSN of R2T and NOP-In, MaxBurstLength of reads")
	fs.BoolVar(&f.json, "json", false, "write the report as JSON")
	fs.BoolVar(&f.progress, "progress", false, "a line a second on stderr (the default on a terminal)")
	cmd.MarkFlagsMutuallyExclusive("random", "sequential")
	return cmd
}

// apply completes c from flags and URL.
func (f *benchFlags) apply(cmd *cobra.Command, c *load.Config, target string) error {
	var err error
	if c.Options.Portal, c.Options.TargetName, c.LUN, err = parseTarget(target); err != nil {
		return err
	}
	if c.Offset, c.Size, err = parseRegion(f.region); err != nil {
		return err
	}
	if c.Rate > 0 && !cmd.Flags().Changed("depth") {
		c.Depth = load.DefaultOpenDepth
	}
	for _, s := range []struct {
		name string
		from float64
		to   *time.Duration
	}{{"seconds", f.seconds, &c.Duration}, {"warmup", f.warmup, &c.Warmup}, {"stall", f.stall, &c.Stall}} {
		if !(s.from >= 0 && s.from <= 1e7) {
			return fmt.Errorf("--%s %v is not within 0-10000000", s.name, s.from)
		}
		*s.to = time.Duration(s.from * float64(time.Second))
	}
	if c.Duration == 0 {
		c.Warmup = 0
	}
	c.BlockSize = int(f.bs)
	c.Sequential = f.sequential
	o := initiator.DefaultOffer()
	o.ImmediateData, o.InitialR2T = f.immediate, f.initialR2T
	o.FirstBurstLength, o.MaxBurstLength, o.MaxRecvDataSegmentLength = uint32(f.firstBurst), uint32(f.maxBurst), uint32(f.mrdsl)
	o.MaxOutstandingR2T = f.maxR2T
	o.HeaderDigest, o.DataDigest = f.headerDigest, f.dataDigest
	if err := o.Check(); err != nil {
		return err
	}
	c.Options.Offer = &o
	c.Options.InitiatorName = f.initiatorName
	c.Options.Lenient = f.lenient
	if f.progress || !cmd.Flags().Changed("progress") && isTerminal(os.Stderr) {
		c.Progress = func(p load.Progress) { writeProgress(cmd.ErrOrStderr(), p) }
	}
	return c.Check()
}

func bench(ctx context.Context, c load.Config, asJSON bool, out, errOut io.Writer) error {
	r, err := load.Run(ctx, c)
	if r != nil {
		var werr error
		if asJSON {
			e := json.NewEncoder(out)
			e.SetIndent("", "  ")
			werr = e.Encode(r)
		} else {
			werr = r.WriteText(out)
		}
		err = errors.Join(err, werr)
	}
	var v *initiator.ViolationError
	switch {
	case errors.As(err, &v) && v.Minor:
		return failed(fmt.Errorf("%w (--lenient goes on in spite of this)", err))
	case err != nil:
		return failed(err)
	case r.Errors > 0:
		return failed(fmt.Errorf("%d commands failed", r.Errors))
	}
	return nil
}

func writeProgress(w io.Writer, p load.Progress) {
	total := ""
	if p.Total > 0 {
		total = fmt.Sprintf(" of %.0f s", p.Total.Seconds())
	}
	fmt.Fprintf(w, "%-8s %4.0f s%s %3.0f%%  %9.0f IOPS %9.1f MB/s  %d errors\n", p.Phase, p.Elapsed.Seconds(), total, p.Done*100, p.IOPS, p.MBps, p.Errors)
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// defaultPort is iSCSI's (RFC 7143 §15).
const defaultPort = "3260"

// parseTarget reads iscsi://HOST[:PORT]/IQN/LUN.
func parseTarget(s string) (portal, iqn string, lun sam.LUN, err error) {
	bad := func(why string) (string, string, sam.LUN, error) {
		return "", "", 0, fmt.Errorf("%q: %s; want iscsi://HOST[:PORT]/IQN/LUN", s, why)
	}
	u, err := url.Parse(s)
	if err != nil {
		return bad("not a URL")
	}
	if u.Scheme != "iscsi" || u.Hostname() == "" {
		return bad("no iscsi:// with a host")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return bad("neither user, query nor fragment are understood")
	}
	iqn, number, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if !ok || iqn == "" {
		return bad("no target name and LUN")
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n > sam.MaxFlatLUN {
		return bad(fmt.Sprintf("LUN %q is not within 0-%d", number, sam.MaxFlatLUN))
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	return net.JoinHostPort(u.Hostname(), port), iqn, sam.NewLUN(uint16(n)), nil
}

// parseRegion reads SIZE or OFFSET+SIZE.
func parseRegion(s string) (offset, size int64, err error) {
	if s == "" {
		return 0, 0, nil
	}
	var o, n byteSize
	first, rest, two := strings.Cut(s, "+")
	if !two {
		first, rest = "0", s
	}
	if err := errors.Join(o.Set(first), n.Set(rest)); err != nil {
		return 0, 0, fmt.Errorf("--region %s: %w", s, err)
	}
	if n == 0 {
		return 0, 0, fmt.Errorf("--region %s is empty", s)
	}
	return int64(o), int64(n), nil
}

// A byteSize is a flag: a number of bytes, with k, M, G or T for binary multiples.
type byteSize int64

// Set reads s.
func (b *byteSize) Set(s string) error {
	digits, shift := s, 0
	if i := strings.IndexAny(s, "kKmMgGtT"); i > 0 && i == len(s)-1 {
		digits = s[:i]
		shift = 10 * (1 + strings.IndexByte("kmgt", s[i]|0x20))
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n > (1<<63-1)>>shift {
		return fmt.Errorf("%q is not a size in bytes (such as 4096, 4k, 1M)", s)
	}
	*b = byteSize(n << shift)
	return nil
}

// String writes it as Set reads it.
func (b *byteSize) String() string {
	n := int64(*b)
	for i, unit := range []string{"T", "G", "M", "k"} {
		if one := int64(1) << (40 - 10*i); n >= one && n%one == 0 {
			return strconv.FormatInt(n/one, 10) + unit
		}
	}
	return strconv.FormatInt(n, 10)
}

// Type names the value in the help.
func (b *byteSize) Type() string { return "SIZE" }
