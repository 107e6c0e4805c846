package grpcd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/api/conv"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/target"
)

type sessions struct {
	api.UnimplementedSessionServiceServer
	s *Server
}

// A place among all sessions: what a page token of ListSessions says.
type place struct{ tid, tsih int }

func (p place) String() string { return fmt.Sprintf("%d.%d", p.tid, p.tsih) }

func parsePlace(token string) (p place, err error) {
	if token == "" {
		return place{}, nil
	}
	tid, tsih, _ := strings.Cut(token, ".")
	if p.tid, err = strconv.Atoi(tid); err == nil {
		p.tsih, err = strconv.Atoi(tsih)
	}
	if err != nil {
		return place{}, invalid("give next_page_token of the answer before, or nothing", "page_token: %q is none", token)
	}
	return p, nil
}

func (x *sessions) ListSessions(_ context.Context, q *api.ListSessionsRequest) (*api.ListSessionsResponse, error) {
	last, err := parsePlace(q.GetPageToken())
	if err != nil {
		return nil, err
	}
	var list []admin.TargetState
	if q.GetTarget() != nil {
		t, err := x.s.target(q.GetTarget(), false)
		if err != nil {
			return nil, err
		}
		list = append(list, t)
	} else {
		list = x.s.svc.Targets(false)
	}
	r := &api.ListSessionsResponse{}
	p := x.s.page(q.GetPageSize())
	for i := range list {
		if list[i].Spec.TID < last.tid {
			continue
		}
		t, err := x.s.svc.Target(admin.Ref{TID: list[i].Spec.TID}, true)
		if missing(err, admin.NoTarget) {
			continue // it went in the meantime
		} else if err != nil {
			return nil, err
		}
		slices.SortFunc(t.Live.Sessions, func(a, b target.SessionInfo) int { return cmp.Compare(a.TSIH, b.TSIH) })
		for k := range t.Live.Sessions {
			at := place{t.Spec.TID, int(t.Live.Sessions[k].TSIH)}
			if at.tid == last.tid && at.tsih <= last.tsih {
				continue
			}
			m := conv.FromSessionInfo(&t, &t.Live.Sessions[k])
			if p.full(m) {
				r.NextPageToken = last.String()
				return r, nil
			}
			r.Sessions = append(r.Sessions, m)
			last = at
		}
	}
	return r, nil
}

// handle reads which session a call is about.
func handle(m *api.TargetRef, tsih uint32) (admin.Ref, uint16, error) {
	ref, err := conv.ToRef(m)
	if err == nil && (tsih == 0 || tsih > 1<<16-1) {
		err = invalid("", "tsih: %d is not within 1-65535", tsih)
	}
	return ref, uint16(tsih), err
}

func (x *sessions) GetSession(_ context.Context, q *api.GetSessionRequest) (*api.GetSessionResponse, error) {
	ref, tsih, err := handle(q.GetTarget(), q.GetTsih())
	if err != nil {
		return nil, err
	}
	t, err := x.s.svc.Target(ref, true)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(t.Live.Sessions, func(s target.SessionInfo) bool { return s.TSIH == tsih })
	if i < 0 {
		return nil, admin.Errorf(admin.NoSession, "target %s has no session %d", t.Spec.Name, tsih)
	}
	return &api.GetSessionResponse{Session: conv.FromSessionInfo(&t, &t.Live.Sessions[i])}, nil
}

func (x *sessions) CloseSession(ctx context.Context, q *api.CloseSessionRequest) (*api.CloseSessionResponse, error) {
	ref, tsih, err := handle(q.GetTarget(), q.GetTsih())
	if err != nil {
		return nil, err
	}
	err = x.s.svc.CloseSession(ctx, ref, tsih)
	if q.GetMissingOk() && missing(err, admin.NoSession) {
		return &api.CloseSessionResponse{Missing: true}, nil
	}
	if err != nil {
		return nil, err
	}
	return &api.CloseSessionResponse{}, nil
}

func (x *sessions) CloseConnection(ctx context.Context, q *api.CloseConnectionRequest) (*api.CloseConnectionResponse, error) {
	ref, tsih, err := handle(q.GetTarget(), q.GetTsih())
	if err != nil {
		return nil, err
	}
	if q.GetCid() > 1<<16-1 {
		return nil, invalid("", "cid: %d is not within 0-65535", q.GetCid())
	}
	err = x.s.svc.CloseConnection(ctx, ref, tsih, uint16(q.GetCid()))
	if q.GetMissingOk() && missing(err, admin.NoSession, admin.NoConnection) {
		return &api.CloseConnectionResponse{Missing: true}, nil
	}
	if err != nil {
		return nil, err
	}
	return &api.CloseConnectionResponse{}, nil
}
