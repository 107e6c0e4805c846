package grpcd

import (
	"context"
	"crypto/subtle"
	"slices"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/api/conv"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

type accounts struct {
	api.UnimplementedAccountServiceServer
	s *Server
}

func (a *accounts) ListAccounts(context.Context, *api.ListAccountsRequest) (*api.ListAccountsResponse, error) {
	d := a.s.svc.Document()
	r := &api.ListAccountsResponse{}
	by := map[string]*api.AccountState{}
	for _, m := range conv.FromDocument(&d).GetAccounts() {
		state := &api.AccountState{Name: m.GetName()}
		by[m.GetName()] = state
		r.Accounts = append(r.Accounts, state)
	}
	each := func(auth spec.Auth, incoming, outgoing func(*api.AccountState)) {
		for _, n := range auth.Incoming {
			if s := by[n]; s != nil {
				incoming(s)
			}
		}
		if s := by[auth.Outgoing]; s != nil {
			outgoing(s)
		}
	}
	for i := range d.Targets {
		name := clean(d.Targets[i].Name)
		each(d.Targets[i].Auth,
			func(s *api.AccountState) { s.Incoming = append(s.Incoming, name) },
			func(s *api.AccountState) { s.Outgoing = append(s.Outgoing, name) })
	}
	each(d.Discovery, func(s *api.AccountState) { s.DiscoveryIncoming = true }, func(s *api.AccountState) { s.DiscoveryOutgoing = true })
	return r, nil
}

func (a *accounts) AddAccount(ctx context.Context, q *api.AddAccountRequest) (*api.AddAccountResponse, error) {
	want, err := conv.ToAccount(q.GetAccount())
	if err != nil {
		return nil, err
	}
	if want.Secret == "" {
		return nil, invalid("", "account.secret: it is empty")
	}
	err = a.s.svc.AddAccount(ctx, want)
	if q.GetAllowExisting() && missing(err, admin.AccountExists) && a.s.hasSecret(want) {
		return &api.AddAccountResponse{Existed: true}, nil
	}
	if err != nil {
		return nil, err
	}
	return &api.AddAccountResponse{}, nil
}

// hasSecret reports whether the account is there with that secret.
func (s *Server) hasSecret(a spec.Account) bool {
	d := s.svc.Document()
	i := slices.IndexFunc(d.Accounts, func(x spec.Account) bool { return x.Name == a.Name })
	return i >= 0 && subtle.ConstantTimeCompare([]byte(d.Accounts[i].Secret), []byte(a.Secret)) == 1
}

func (a *accounts) SetSecret(ctx context.Context, q *api.SetSecretRequest) (*api.SetSecretResponse, error) {
	if q.GetSecret() == "" {
		return nil, invalid("", "secret: it is empty")
	}
	if err := a.s.svc.SetSecret(ctx, q.GetName(), q.GetSecret()); err != nil {
		return nil, err
	}
	return &api.SetSecretResponse{}, nil
}

func (a *accounts) RemoveAccount(ctx context.Context, q *api.RemoveAccountRequest) (*api.RemoveAccountResponse, error) {
	err := a.s.svc.RemoveAccount(ctx, q.GetName())
	if q.GetMissingOk() && missing(err, admin.NoAccount) {
		return &api.RemoveAccountResponse{Missing: true}, nil
	}
	if err != nil {
		return nil, err
	}
	return &api.RemoveAccountResponse{}, nil
}

// editAuth edits the accounts of a target, or of discovery where none is named.
func (s *Server) editAuth(ctx context.Context, m *api.TargetRef, edit func(where string, a *spec.Auth) error) error {
	if m == nil {
		return s.svc.EditDiscovery(ctx, func(a *spec.Auth) error { return edit("discovery", a) })
	}
	ref, err := conv.ToRef(m)
	if err != nil {
		return err
	}
	return s.svc.EditTarget(ctx, ref, func(t *spec.Target) error { return edit("target "+t.Name, &t.Auth) })
}

// binding reads what a call binds, and what for.
func binding(name string, d api.Direction) (outgoing bool, err error) {
	if name == "" {
		return false, invalid("", "name: it is empty")
	}
	switch d {
	case api.Direction_DIRECTION_UNSPECIFIED, api.Direction_DIRECTION_INCOMING:
		return false, nil
	case api.Direction_DIRECTION_OUTGOING:
		return true, nil
	}
	return false, invalid("", "direction: %d is none", d)
}

func (a *accounts) BindAccount(ctx context.Context, q *api.BindAccountRequest) (*api.BindAccountResponse, error) {
	outgoing, err := binding(q.GetName(), q.GetDirection())
	if err != nil {
		return nil, err
	}
	name := q.GetName()
	r := &api.BindAccountResponse{}
	err = a.s.editAuth(ctx, q.GetTarget(), func(where string, x *spec.Auth) error {
		r.Existed = false
		switch {
		case outgoing && x.Outgoing == name, !outgoing && slices.Contains(x.Incoming, name):
			if q.GetAllowExisting() {
				r.Existed = true
				return nil
			}
			return admin.Errorf(admin.AccountExists, "account %s is bound to %s already", name, where)
		case outgoing && x.Outgoing != "":
			e := admin.Errorf(admin.OutgoingExists, "%s proves itself with account %s already", where, x.Outgoing)
			e.Hint = "unbind that one first"
			return e
		case outgoing:
			x.Outgoing = name
		default:
			x.Incoming = append(x.Incoming, name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (a *accounts) UnbindAccount(ctx context.Context, q *api.UnbindAccountRequest) (*api.UnbindAccountResponse, error) {
	outgoing, err := binding(q.GetName(), q.GetDirection())
	if err != nil {
		return nil, err
	}
	name := q.GetName()
	r := &api.UnbindAccountResponse{}
	err = a.s.editAuth(ctx, q.GetTarget(), func(where string, x *spec.Auth) error {
		r.Missing = false
		i := slices.Index(x.Incoming, name)
		switch {
		case outgoing && x.Outgoing == name:
			x.Outgoing = ""
		case !outgoing && i >= 0:
			x.Incoming = slices.Delete(x.Incoming, i, i+1)
		case q.GetMissingOk():
			r.Missing = true
		default:
			return admin.Errorf(admin.NotBound, "account %s is not bound to %s", name, where)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}
