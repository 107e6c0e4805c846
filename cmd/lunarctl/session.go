package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

func newSession(c *cli) *cobra.Command {
	return group("session", "List and close the sessions of initiators",
		"A session is one initiator's, at one target; its TSIH names it there.",
		`  lunarctl session list
  lunarctl session close iqn.2026-11.io.lunar:disk 1`,
		c.sessionList(), c.sessionShow(), c.sessionClose())
}

func (c *cli) sessionList() *cobra.Command {
	return &cobra.Command{
		Use: "list [TARGET]", Short: "List the sessions of one target, or of all", Args: cobra.MaximumNArgs(1), ValidArgsFunction: c.complete(c.targetNames),
		Example: `  lunarctl session list
  lunarctl session list iqn.2026-11.io.lunar:disk
  lunarctl session list --json | jq -r '.[].initiator' | sort -u`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				var of *api.TargetRef
				if len(args) == 1 {
					of = ref(args[0])
				}
				list, err := d.listSessions(ctx, of)
				if err != nil {
					return err
				}
				return c.show(cmd, list, func(w io.Writer) error {
					t := newTable(w, "TID", "TARGET", "TSIH", "INITIATOR", "ADDRESS", "USER", "SINCE", "READ", "WRITTEN", "UNDER WAY")
					for _, s := range list {
						var in, out uint64
						for _, l := range s.GetLuns() {
							in += l.GetWriteBytes()
							out += l.GetReadBytes()
						}
						address := ""
						if len(s.GetConnections()) > 0 {
							address = s.GetConnections()[0].GetRemote()
						}
						t.row(s.GetTid(), s.GetTarget(), s.GetTsih(), s.GetInitiator(), address, s.GetUser(), since(s), size(int64(out)), size(int64(in)), s.GetQueued())
					}
					return t.end()
				})
			})
		},
	}
}

func since(s *api.SessionInfo) string {
	return span(max(time.Since(s.GetSince().AsTime()), 0)) + " ago"
}

func tsih(s string) (uint32, error) {
	n, err := number("TSIH", s, 65535)
	if err == nil && n == 0 {
		err = fmt.Errorf("TSIH 0 names no session; see lunarctl session list")
	}
	return n, err
}

func (c *cli) sessionShow() *cobra.Command {
	return &cobra.Command{
		Use: "show TARGET TSIH", Short: "Show everything of a session", Args: cobra.ExactArgs(2), ValidArgsFunction: c.complete(c.targetNames, c.sessionHandles),
		Example: `  lunarctl session show iqn.2026-11.io.lunar:disk 1
  lunarctl session show 1 1 --json | jq .params`,
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := tsih(args[1])
			if err != nil {
				return err
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.sessions.GetSession(ctx, &api.GetSessionRequest{Target: ref(args[0]), Tsih: n})
				if err != nil {
					return err
				}
				return c.show(cmd, r.GetSession(), func(w io.Writer) error { return writeSession(w, r.GetSession()) })
			})
		},
	}
}

func writeSession(w io.Writer, s *api.SessionInfo) error {
	f := newFacts(w)
	f.add("Target", s.GetTarget())
	f.add("TSIH", s.GetTsih())
	f.add("ISID", s.GetIsid())
	f.add("Initiator", s.GetInitiator())
	f.add("Alias", s.GetAlias())
	f.add("User", s.GetUser())
	f.add("Portal group", s.GetPortalGroup())
	f.add("Since", since(s))
	f.add("Under way", s.GetQueued())
	p := s.GetParams()
	f.add("HeaderDigest", digest(p.GetHeaderDigest()))
	f.add("DataDigest", digest(p.GetDataDigest()))
	f.add("InitialR2T", yesNo(p.GetInitialR2T()))
	f.add("ImmediateData", yesNo(p.GetImmediateData()))
	f.add("FirstBurstLength", p.GetFirstBurstLength())
	f.add("MaxBurstLength", p.GetMaxBurstLength())
	f.add("MaxRecvDataSegmentLength", fmt.Sprintf("%d here, %d there", p.GetMaxRecvDataSegmentLength(), p.GetMaxXmitDataSegmentLength()))
	f.add("MaxOutstandingR2T", p.GetMaxOutstandingR2T())
	f.add("MaxConnections", p.GetMaxConnections())
	f.add("ErrorRecoveryLevel", p.GetErrorRecoveryLevel())
	f.add("TaskReporting", p.GetTaskReporting())
	if err := f.end(); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nConnections:")
	t := newTable(w, "CID", "INITIATOR", "PORTAL", "COMMANDS", "RECEIVED", "SENT")
	for _, x := range s.GetConnections() {
		t.row(x.GetCid(), x.GetRemote(), x.GetLocal(), x.GetCommands(), size(int64(x.GetRxData())), size(int64(x.GetTxData())))
	}
	if err := t.end(); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nLUNs:")
	t = newTable(w, "LUN", "READS", "READ", "WRITES", "WRITTEN", "OTHERS", "ERRORS")
	for _, l := range s.GetLuns() {
		t.row(l.GetLun(), l.GetReads(), size(int64(l.GetReadBytes())), l.GetWrites(), size(int64(l.GetWriteBytes())), l.GetOthers(), l.GetErrors())
	}
	return t.end()
}

func digest(on bool) string {
	if on {
		return "CRC32C"
	}
	return "None"
}

func (c *cli) sessionClose() *cobra.Command {
	var cid uint16
	var missingOK bool
	cmd := &cobra.Command{
		Use: "close TARGET TSIH", Short: "End a session, or one of its connections, at once", Args: cobra.ExactArgs(2), ValidArgsFunction: c.complete(c.targetNames, c.sessionHandles),
		Long: `Ends a session at once. Initiators log in again by themselves as a rule: what keeps one out is a rule less ("lunarctl acl remove") or
"lunarctl target offline".`,
		Example: `  lunarctl session close iqn.2026-11.io.lunar:disk 1
  lunarctl session close 1 1 --connection 0`,
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := tsih(args[1])
			if err != nil {
				return err
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				if cmd.Flags().Changed("connection") {
					r, err := d.sessions.CloseConnection(ctx, &api.CloseConnectionRequest{Target: ref(args[0]), Tsih: n, Cid: uint32(cid), MissingOk: missingOK})
					if err != nil {
						return err
					}
					return c.did(cmd, r, "target %s session %d connection %d %s", args[0], n, cid, closed(r.GetMissing()))
				}
				r, err := d.sessions.CloseSession(ctx, &api.CloseSessionRequest{Target: ref(args[0]), Tsih: n, MissingOk: missingOK})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "target %s session %d %s", args[0], n, closed(r.GetMissing()))
			})
		},
	}
	cmd.Flags().Uint16Var(&cid, "connection", 0, "only the connection of this `CID`")
	cmd.Flags().BoolVar(&missingOK, "missing-ok", false, "that there is none is no error")
	must(cmd.RegisterFlagCompletionFunc("connection", cobra.NoFileCompletions))
	return cmd
}

func closed(missing bool) string {
	if missing {
		return "was not there"
	}
	return "closed"
}
