package conv

import (
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lunar-iscsi/lunar/admin"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/target"
)

// FromTargetState makes a message; live says whether it has what is live.
func FromTargetState(t *admin.TargetState, live bool) *api.TargetState {
	m := &api.TargetState{Spec: FromTarget(&t.Spec)}
	for n, why := range t.Faults {
		if m.Faults == nil {
			m.Faults = make(map[uint32]string, len(t.Faults))
		}
		m.Faults[uint32(n)] = text(why)
	}
	if live {
		m.Live = FromInfo(&t.Live)
	}
	return m
}

// FromInfo makes a message; sessions are counted in it, not told one by one.
func FromInfo(i *target.Info) *api.TargetLive {
	m := &api.TargetLive{Ready: i.Ready, Sessions: uint32(len(i.Sessions)), Busy: durationpb.New(i.Busy), Uptime: durationpb.New(i.Up), Counters: fromCounters(&i.Commands),
		Loop: text(i.Loop), Absent: fromLUNStats(&i.Absent)}
	for k := range i.LUNs {
		m.Luns = append(m.Luns, FromLUNInfo(&i.LUNs[k]))
	}
	return m
}

// FromLUNInfo makes a message.
func FromLUNInfo(l *target.LUNInfo) *api.LunLive {
	m := &api.LunLive{
		Lun: uint32(l.LUN), Controller: l.Controller, Size: l.Size, BlockSize: number(l.BlockSize), Online: l.Online, Failed: l.Failed,
		PreventRemoval: l.PreventRemoval, Swp: l.SWP, ReadOnly: l.ReadOnly, Thin: l.Thin, WriteCache: l.WriteCache,
		Identity: text(l.Identity), Serial: text(l.Serial), Stats: fromLUNStats(&l.Stats), Errors: maps.Clone(l.Errors),
		ReadLatency: fromHistogram(&l.ReadLatency), WriteLatency: fromHistogram(&l.WriteLatency), Queued: uint32(max(l.Queued, 0)),
		Waiting: uint32(l.Late.Waiting), Timeouts: l.Late.Total, TimeoutsAnswered: l.Late.Ended, InDoubt: uint32(l.InDoubt), Fenced: l.Fenced,
	}
	if l.Late.Waiting != 0 {
		m.WaitingLongest = durationpb.New(l.Late.Oldest)
	}
	if l.NAA != 0 {
		m.Naa = fmt.Sprintf("%016x", l.NAA)
	}
	return m
}

func fromLUNStats(s *target.LUNStats) *api.LunStats {
	return &api.LunStats{
		Lun: uint32(s.LUN), ReadsBegun: s.ReadsBegun, ReadBytesBegun: s.ReadBytesBegun, Reads: s.Reads, ReadBytes: s.ReadBytes,
		WritesBegun: s.WritesBegun, WriteBytesBegun: s.WriteBytesBegun, Writes: s.Writes, WriteBytes: s.WriteBytes, Others: s.Others, Errors: s.Errors,
		ReadsFailed: s.ReadsFailed, ReadBytesFailed: s.ReadBytesFailed, WritesFailed: s.WritesFailed, WriteBytesFailed: s.WriteBytesFailed,
		OthersBegun: s.OthersBegun, OtherIn: fromFlow(s.OtherIn), OtherOut: fromFlow(s.OtherOut),
	}
}

func fromFlow(f target.Flow) *api.Flow {
	return &api.Flow{Begun: f.Begun, BytesBegun: f.BytesBegun, Ended: f.Ended, Bytes: f.Bytes}
}

func fromHistogram(h *target.Histogram) *api.Histogram {
	m := &api.Histogram{Sum: durationpb.New(h.Sum)}
	for i, n := range h.Counts {
		b := &api.Histogram_Bucket{Count: n}
		if i < len(h.Counts)-1 {
			b.LeNs = uint64(target.HistogramBound(i))
		}
		m.Buckets = append(m.Buckets, b)
	}
	return m
}

func fromCounters(c *session.Counters) *api.SessionCounters {
	return &api.SessionCounters{Commands: c.Commands, Responses: c.Responses, BytesIn: c.BytesIn, BytesOut: c.BytesOut, Others: map[string]uint64{
		"out_of_window": c.OutOfWindow, "held": c.Held, "late_data": c.LateData, "data_errors": c.DataErrors, "data_digests": c.DataDigests,
		"header_digests": c.HeaderDigests, "rejects": c.Rejects, "aborted": c.Aborted, "functions": c.Functions, "pings": c.Pings, "texts": c.Texts,
		"texts_over": c.TextsOver, "texts_astray": c.TextsAstray, "texts_bad": c.TextsBad, "ping_timeouts": c.PingTimeouts,
	}}
}

// FromStats makes a message.
func FromStats(s *target.Stats) *api.ServerStats {
	return &api.ServerStats{
		Sessions: uint32(s.Sessions), LoggingIn: uint32(s.LoggingIn), BufferBytes: s.BufferBytes, Accepted: s.Accepted, TurnedAway: s.TurnedAway,
		Logins: s.Logins, Discoveries: s.Discoveries, Reinstated: s.Reinstated, Slowed: s.Slowed, LoginsLost: maps.Clone(s.LoginsLost), Drops: maps.Clone(s.Drops),
		TaskSetFull: s.TaskSetFull, Panics: s.Panics, NotLogged: s.NotLogged, Commands: fromCounters(&s.Commands),
	}
}

// FromSessionInfo makes a message of a session of target t.
func FromSessionInfo(t *admin.TargetState, s *target.SessionInfo) *api.SessionInfo {
	m := &api.SessionInfo{
		Tid: number(t.Spec.TID), Target: text(t.Spec.Name), Tsih: uint32(s.TSIH), Isid: hex.EncodeToString(s.ISID[:]), Initiator: text(s.Initiator),
		Alias: text(s.Alias), User: text(s.User), PortalGroup: uint32(s.Group), Since: timestamppb.New(s.Since), Params: fromParams(&s.Params), Queued: uint32(max(s.Queued, 0)),
	}
	for _, c := range s.Conns {
		m.Connections = append(m.Connections, &api.ConnectionInfo{Cid: uint32(c.CID), Remote: address(c.Remote), Local: address(c.Local),
			RxData: c.Counters.RxData, TxData: c.Counters.TxData, DataOut: c.Counters.DataOut, DataIn: c.Counters.DataIn, Commands: c.Counters.Commands, Responses: c.Counters.Responses,
			RxBytes: c.Counters.RxBytes, TxBytes: c.Counters.TxBytes})
	}
	for i := range s.LUNs {
		m.Luns = append(m.Luns, fromLUNStats(&s.LUNs[i]))
	}
	return m
}

func address(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

var taskReporting = [...]string{login.ReportRFC3720: "RFC3720", login.ReportResponseFence: "ResponseFence", login.ReportFastAbort: "FastAbort"}

func fromParams(p *login.Params) *api.Params {
	return &api.Params{
		HeaderDigest: p.HeaderDigest, DataDigest: p.DataDigest, MaxConnections: uint32(p.MaxConnections), InitialR2T: p.InitialR2T, ImmediateData: p.ImmediateData,
		MaxBurstLength: p.MaxBurstLength, FirstBurstLength: p.FirstBurstLength, MaxRecvDataSegmentLength: p.MaxRecvDataSegmentLength,
		MaxXmitDataSegmentLength: p.MaxXmitDataSegmentLength, DefaultTime2Wait: uint32(p.DefaultTime2Wait), DefaultTime2Retain: uint32(p.DefaultTime2Retain),
		MaxOutstandingR2T: uint32(p.MaxOutstandingR2T), ErrorRecoveryLevel: uint32(p.ErrorRecoveryLevel),
		TaskReporting: taskReporting[p.TaskReporting], ProtocolLevel: uint32(p.ProtocolLevel),
	}
}
