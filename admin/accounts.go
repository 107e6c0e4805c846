package admin

import (
	"context"
	"maps"
	"reflect"
	"slices"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// accountsNow is what is published. It is never changed.
func (m *Manager) accountsNow() accounts {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.accounts
}

func (a *accounts) find(name string) int {
	return slices.IndexFunc(a.list, func(o spec.Account) bool { return o.Name == name })
}

func (a *accounts) known(name string) bool { return a.find(name) >= 0 }

// with is a with other bindings of one target.
func (a *accounts) with(tid int, auth spec.Auth) accounts {
	n := *a
	n.bound = maps.Clone(a.bound)
	if n.bound == nil {
		n.bound = map[int]spec.Auth{}
	}
	auth.Incoming = slices.Clone(auth.Incoming)
	if delete(n.bound, tid); auth.Outgoing != "" || len(auth.Incoming) != 0 {
		n.bound[tid] = auth
	}
	return n
}

// without is auth without one account.
func without(auth spec.Auth, name string) spec.Auth {
	auth.Incoming = slices.DeleteFunc(slices.Clone(auth.Incoming), func(o string) bool { return o == name })
	if auth.Outgoing == name {
		auth.Outgoing = ""
	}
	return auth
}

func uses(auth spec.Auth, name string) bool {
	return auth.Outgoing == name || slices.Contains(auth.Incoming, name)
}

// checkAuth says whether a target may be bound to what auth names.
func checkAuth(e *entry, auth spec.Auth, acc *accounts) error {
	for _, name := range append(slices.Clone(auth.Incoming), auth.Outgoing) {
		if name != "" && !acc.known(name) {
			return Errorf(NoAccount, "target %s: there is no account %q", e.name, name)
		}
	}
	return nil
}

// encodeAccounts writes down what of acc is saved.
func (m *Manager) encodeAccounts(acc *accounts) ([]byte, error) {
	s := savedAccounts{Accounts: acc.list, Discovery: acc.discovery, Bound: map[int]spec.Auth{}}
	m.mu.RLock()
	for tid, auth := range acc.bound {
		if e := m.byTID[tid]; e != nil && !e.passing {
			s.Bound[tid] = auth
		}
	}
	m.mu.RUnlock()
	return encode(s)
}

// changeAccounts carries out one change of the accounts, of discovery, or of both: it is worked out, saved, published, and told to who
// is concerned.
func (m *Manager) changeAccounts(ctx context.Context, d *deed, work func(acc *accounts) error) (err error) {
	same := false
	defer func() { m.tell(ctx, *d, same, err) }()
	ctx, done, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := m.accountsTurn.take(ctx, m.cfg.MaxWaiting); err != nil {
		return err
	}
	defer m.accountsTurn.give()
	old := m.accountsNow()
	next := accounts{list: slices.Clone(old.list), discovery: old.discovery, bound: maps.Clone(old.bound)}
	if err := work(&next); err != nil {
		return invalid(err)
	}
	if same = reflect.DeepEqual(old, next); same {
		return nil
	}
	if m.cfg.State != nil {
		was, err := m.encodeAccounts(&old)
		if err != nil {
			return err
		}
		b, err := m.encodeAccounts(&next)
		if err != nil {
			return err
		}
		if string(was) != string(b) {
			if err := m.save(map[string][]byte{keyAccounts: b}); err != nil {
				return err
			}
		}
	}
	m.mu.Lock()
	m.accounts = next
	var touched []*entry
	for tid, e := range m.byTID {
		if e.spec != nil && !reflect.DeepEqual(m.liveAuth(old.bound[tid], &old), m.liveAuth(next.bound[tid], &next)) {
			touched = append(touched, e)
		}
	}
	m.mu.Unlock()
	for _, e := range touched {
		m.apply(e)
	}
	m.srv.SetDiscovery(*m.liveAuth(next.discovery, &next))
	return nil
}

// AddAccount is Service's.
func (m *Manager) AddAccount(ctx context.Context, a spec.Account) error {
	d := &deed{op: "account add", kind: AccountAdded, lun: -1, what: a.Name}
	return m.changeAccounts(ctx, d, func(acc *accounts) error {
		if err := a.CheckAccount(); err != nil {
			return err
		}
		if acc.known(a.Name) {
			return Errorf(AccountExists, "account %q exists already", a.Name)
		}
		if len(acc.list) >= m.cfg.MaxAccounts {
			return Errorf(TooMany, "account %q: there are %d accounts, the most that are allowed", a.Name, len(acc.list))
		}
		m.weak(a)
		acc.list = append(acc.list, a)
		return nil
	})
}

// shortSecret is in bytes the least that RFC 7143 §9.2.1 wants a secret to have without IPsec.
const shortSecret = 12

func (m *Manager) weak(a spec.Account) {
	if len(a.Secret) < shortSecret {
		m.log.Warn("the CHAP secret of an account is short: it can be guessed from what is heard on the network, and Windows takes no less than 12 characters", "account", a.Name)
	}
}

// SetSecret is Service's.
func (m *Manager) SetSecret(ctx context.Context, name, secret string) error {
	d := &deed{op: "account secret", kind: AccountChanged, lun: -1, what: name}
	return m.changeAccounts(ctx, d, func(acc *accounts) error {
		i := acc.find(name)
		if i < 0 {
			return Errorf(NoAccount, "there is no account %q", name)
		}
		acc.list[i].Secret = secret
		if err := acc.list[i].CheckAccount(); err != nil {
			return err
		}
		m.weak(acc.list[i])
		return nil
	})
}

// RemoveAccount is Service's.
func (m *Manager) RemoveAccount(ctx context.Context, name string) error {
	d := &deed{op: "account remove", kind: AccountRemoved, lun: -1, what: name}
	return m.changeAccounts(ctx, d, func(acc *accounts) error {
		i := acc.find(name)
		if i < 0 {
			return Errorf(NoAccount, "there is no account %q", name)
		}
		acc.list = slices.Delete(acc.list, i, i+1)
		acc.discovery = without(acc.discovery, name)
		for tid, auth := range acc.bound {
			if uses(auth, name) {
				if acc.bound[tid] = without(auth, name); reflect.DeepEqual(acc.bound[tid], spec.Auth{Incoming: []string{}}) {
					delete(acc.bound, tid)
				}
			}
		}
		return nil
	})
}

// EditDiscovery is Service's.
func (m *Manager) EditDiscovery(ctx context.Context, edit func(*spec.Auth) error) error {
	d := &deed{op: "discovery change", kind: SystemChanged, lun: -1}
	return m.changeAccounts(ctx, d, func(acc *accounts) error {
		a := acc.discovery
		a.Incoming = slices.Clone(a.Incoming)
		if err := edit(&a); err != nil {
			return err
		}
		a.Incoming = slices.Clone(a.Incoming)
		for _, name := range append(slices.Clone(a.Incoming), a.Outgoing) {
			if name != "" && !acc.known(name) {
				return Errorf(NoAccount, "discovery: there is no account %q", name)
			}
		}
		if err := a.CheckAuth(acc.known); err != nil {
			return err
		}
		d.detail = spec.Changes(acc.discovery, a)
		acc.discovery = a
		return nil
	})
}
