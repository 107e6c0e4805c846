package admin

import (
	"context"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/mem"
)

// What becomes of accounts while a target is being made, whose volume takes its time to open, stays.
func TestAccountsMeanwhile(t *testing.T) {
	opening, open := make(chan struct{}), make(chan struct{})
	slow := mem.Driver()
	inner := slow.Open
	slow.Open = func(ctx context.Context, u *backstore.URI, o backstore.Options) (backstore.Store, error) {
		close(opening)
		select {
		case <-open:
			return inner(ctx, u, o)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	st := &testState{}
	r := newRig(t, st, func(c *Config) { c.Registry = backstore.NewRegistry(slow) })
	r.ok(r.AddAccount(r.ctx(), spec.Account{Name: "goes", Secret: "a secret of the first"}))
	_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "bound"})
	r.ok(err)
	made := make(chan error, 1)
	go func() {
		_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "slow", LUNs: []spec.LUN{{Number: 1, Volume: "mem:?size=1M"}}})
		made <- err
	}()
	<-opening
	r.ok(r.AddAccount(r.ctx(), spec.Account{Name: "comes", Secret: "a secret of the second"}))
	r.ok(r.RemoveAccount(r.ctx(), "goes"))
	r.ok(r.EditDiscovery(r.ctx(), func(a *spec.Auth) error { a.Incoming = []string{"comes"}; return nil }))
	r.ok(r.EditTarget(r.ctx(), Ref{TID: 1}, func(t *spec.Target) error { t.Auth.Incoming = []string{"comes"}; return nil }))
	close(open)
	r.ok(<-made)
	d := r.Document()
	if len(d.Accounts) != 1 || d.Accounts[0].Name != "comes" || len(d.Discovery.Incoming) != 1 || len(d.Targets[0].Auth.Incoming) != 1 || len(d.Targets) != 2 {
		t.Errorf("there is %+v", d)
	}
	if c := spec.Changes(d, newRig(t, st).Document()); c != "" {
		t.Error("saved is something else: ", c)
	}
}
