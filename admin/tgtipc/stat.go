package tgtipc

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/target"
)

const (
	statHeader = "tgt lun sid rd_subm(bytes,cmds) rd_done(bytes,cmds) wr_subm(bytes,cmds) wr_done(bytes,cmds) errs\n"
	connHeader = "sid cid rxdata_octets txdata_octets dataout_pdus datain_pdus cmd_pdus rsp_pdus\n"
)

// targetStats has a row for each LUN and session, of every target.
func targetStats(ts []admin.TargetState) string {
	var b strings.Builder
	for i := range ts {
		t := &ts[i]
		for k := range t.Live.LUNs {
			writeLUNStats(&b, t, t.Live.LUNs[k].LUN)
		}
	}
	return b.String()
}

// writeLUNStats writes a row for each session, oldest first.
func writeLUNStats(b *strings.Builder, t *admin.TargetState, lun uint16) {
	for i := range t.Live.Sessions {
		writeStat(b, t.Spec.TID, lun, &t.Live.Sessions[i])
	}
}

func writeStat(b *strings.Builder, tid int, lun uint16, s *target.SessionInfo) {
	var st target.LUNStats // of a LUN that the session has not come by yet, or does not see
	if i := slices.IndexFunc(s.LUNs, func(l target.LUNStats) bool { return l.LUN == lun }); i >= 0 {
		st = s.LUNs[i]
	}
	in, out := st.Directions()
	fmt.Fprintf(b, "%3d %3d %3d %12d %6d %12d %6d %12d %6d %12d %6d %4d\n", tid, lun, s.TSIH, in.BytesBegun, in.Begun, in.Bytes, in.Ended,
		out.BytesBegun, out.Begun, out.Bytes, out.Ended, st.Errors)
}

// connStats has a row for each connection of a session that cid picks.
func connStats(s *target.SessionInfo, pick func(cid uint16) bool) string {
	var b strings.Builder
	b.WriteString(connHeader)
	for i := range s.Conns {
		c := &s.Conns[i]
		if pick(c.CID) {
			// tgtd counts neither Data-In nor responses, and shows 0; its octets are all that passed, headers and login included.
			fmt.Fprintf(&b, "%3d %3d %13d %13d %12d %11d %8d %8d\n", s.TSIH, c.CID, c.Counters.RxBytes, c.Counters.TxBytes, c.Counters.DataOut, 0,
				c.Counters.Commands, 0)
		}
	}
	return b.String()
}

// sessionStats is what one session has done at each LUN, the last first, and its connections.
func sessionStats(t *admin.TargetState, s *target.SessionInfo) string {
	var b strings.Builder
	b.WriteString(statHeader)
	for _, l := range slices.Backward(t.Live.LUNs) {
		writeStat(&b, t.Spec.TID, l.LUN, s)
	}
	b.WriteString("\n" + connStats(s, func(uint16) bool { return true }))
	return b.String()
}

// statLUN is one LUN's statistics; with a session named, that session's.
func (c *call) statLUN() (string, error) {
	t, _, err := c.lun(true)
	if err != nil {
		return "", err
	}
	if c.SID != 0 {
		return c.statSession()
	}
	var b strings.Builder
	b.WriteString(statHeader)
	writeLUNStats(&b, &t, uint16(c.LUN))
	return b.String(), nil
}
