package tgtipc

import (
	"context"
	"slices"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

func (c *call) account(ctx context.Context) (string, error) {
	switch c.Op {
	case OpShow:
		return c.showAccounts(), nil
	case OpNew, OpDelete, OpBind, OpUnbind:
	default:
		return "", c.notThere(ErrUnsupported)
	}
	_, user, ok := strings.Cut(c.payload, "user=")
	if !ok {
		return "", refuse(ErrInvalidRequest, "no account is named: user= is missing")
	}
	switch c.Op {
	case OpNew:
		return "", c.newAccount(ctx, user)
	case OpDelete:
		return "", c.svc.RemoveAccount(ctx, user)
	}
	return "", c.bindAccount(ctx, user)
}

// newAccount makes an account of "USER,password=SECRET". Like tgtd it does not look at the word behind the comma, but skips it: a comma in
// the name ends it, and one in the secret is part of it.
func (c *call) newAccount(ctx context.Context, text string) error {
	user, rest, ok := strings.Cut(text, ",")
	if !ok || len(rest) < len("password=") {
		return refuse(ErrInvalidRequest, "account %q: no password is given", user)
	}
	return c.svc.AddAccount(ctx, spec.Account{Name: user, Secret: rest[len("password="):]})
}

// bindAccount binds or unbinds an account: of a target or, without one, of discovery.
func (c *call) bindAccount(ctx context.Context, user string) error {
	edit := func(a *spec.Auth) error { return c.editAuth(a, user) }
	if c.TID == NoTID {
		if err := c.findAccount(user); err != nil {
			return err
		}
		return c.svc.EditDiscovery(ctx, edit)
	}
	if _, err := c.find(false); err != nil {
		return err
	}
	if err := c.findAccount(user); err != nil {
		return err
	}
	return c.svc.EditTarget(ctx, c.ref(), func(t *spec.Target) error { return edit(&t.Auth) })
}

func (c *call) findAccount(user string) error {
	doc := c.svc.Document()
	if !slices.ContainsFunc(doc.Accounts, func(a spec.Account) bool { return a.Name == user }) {
		return refuse(ErrNoUser, "there is no account %q", user)
	}
	return nil
}

func (c *call) editAuth(a *spec.Auth, user string) error {
	out := c.Direction != Incoming
	bound := a.Outgoing == user
	if !out {
		bound = slices.Contains(a.Incoming, user)
	}
	switch {
	case c.Op == OpUnbind && !bound:
		return refuse(ErrNoUser, "account %q is not bound there as %s", user, pick(out, "outgoing", "incoming"))
	case c.Op == OpUnbind && out:
		a.Outgoing = ""
	case c.Op == OpUnbind:
		a.Incoming = slices.DeleteFunc(a.Incoming, func(n string) bool { return n == user })
	case out && a.Outgoing != "":
		return refuse(ErrOutgoingExists, "account %q is bound there as outgoing, and there can be one", a.Outgoing)
	case out:
		a.Outgoing = user
	case bound:
		return refuse(ErrUserExists, "account %q is bound there already", user)
	default:
		a.Incoming = append(a.Incoming, user)
	}
	return nil
}

// showAccounts lists the names, the newest first; without any, nothing.
func (c *call) showAccounts() string {
	doc := c.svc.Document()
	if len(doc.Accounts) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("Account list:\n")
	for _, a := range slices.Backward(doc.Accounts) {
		b.WriteString("    " + a.Name + "\n")
	}
	return b.String()
}
