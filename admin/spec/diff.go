package spec

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// A Change is one difference between two documents. It never has a secret in it.
type Change struct {
	Verb string // add, change, remove
	What string // "target iqn…", "target iqn… LUN 3", "portal …", "account …", "discovery", "system"
	// Fields say what differs, by the words of the declarative file; of what is added or removed, what it has or had.
	Fields []FieldChange
}

// A FieldChange is one field that differs. A value that is empty is the default.
type FieldChange struct {
	Field    string
	From, To string
}

// Detail is the fields on one line: "alias: a -> b; offline: true".
func (c *Change) Detail() string {
	var b strings.Builder
	for i, f := range c.Fields {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(f.Field + ": ")
		switch {
		case c.Verb == "add":
			b.WriteString(f.To)
		case c.Verb == "remove":
			b.WriteString(f.From)
		default:
			b.WriteString(cmp.Or(f.From, "(default)") + " -> " + cmp.Or(f.To, "(default)"))
		}
	}
	return b.String()
}

// secretText stands for a secret.
const secretText = "(secret)"

// Diff returns what makes want of have: of the system, portals, accounts, discovery and targets, each of these sorted by name. Targets are the same by name, LUNs by number; the order in which accounts and targets stand is no difference. A TID of 0 and an empty
// identity in want are whatever is there.
func Diff(have, want *Document) []Change {
	var out []Change
	add := func(what string, fields []FieldChange) {
		if len(fields) > 0 {
			out = append(out, Change{"change", what, fields})
		}
	}
	add("system", fieldsOf(have.System, want.System))
	out = append(out, lists("portal", have.Portals, want.Portals, func(p Portal) string { return p.Address })...)
	out = append(out, accounts(have.Accounts, want.Accounts)...)
	add("discovery", fieldsOf(have.Discovery, want.Discovery))
	name := func(t Target) string {
		if n, _, err := NormalizeName(t.Name); err == nil {
			return n
		}
		return t.Name
	}
	old := index(have.Targets, name)
	now := index(want.Targets, name)
	for _, k := range union(old, now) {
		out = append(out, targetDiff(old[k], now[k])...)
	}
	return out
}

// lists compares two lists by a key.
func lists[T any](kind string, have, want []T, key func(T) string) (out []Change) {
	old, now := index(have, key), index(want, key)
	for _, k := range union(old, now) {
		what := kind + " " + k
		var zero T
		switch o, n := old[k], now[k]; {
		case n == nil:
			out = append(out, Change{"remove", what, without(fieldsOf(*o, zero), "address", "lun", "name")})
		case o == nil:
			out = append(out, Change{"add", what, without(fieldsOf(zero, *n), "address", "lun", "name")})
		default:
			if f := fieldsOf(*o, *n); len(f) > 0 {
				out = append(out, Change{"change", what, f})
			}
		}
	}
	return out
}

func accounts(have, want []Account) (out []Change) {
	old, now := index(have, func(a Account) string { return a.Name }), index(want, func(a Account) string { return a.Name })
	for _, k := range union(old, now) {
		what := fmt.Sprintf("account %q", k)
		switch o, n := old[k], now[k]; {
		case n == nil:
			out = append(out, Change{"remove", what, nil})
		case o == nil:
			out = append(out, Change{"add", what, nil})
		case o.Secret != n.Secret:
			out = append(out, Change{"change", what, []FieldChange{{"secret", secretText, "another"}}})
		}
	}
	return out
}

// targetDiff compares one target; nil: it is not there.
func targetDiff(o, n *Target) (out []Change) {
	number := func(l LUN) string { return fmt.Sprintf("%05d", l.Number) }
	plain := func(t *Target) Target {
		p := *t
		p.LUNs = nil
		return p
	}
	var have, want Target
	verb := "change"
	switch {
	case n == nil:
		verb, have = "remove", *o
	case o == nil:
		verb, want = "add", *n
	default:
		have, want = *o, *n
		if want.TID == 0 {
			want.TID = have.TID
		}
		// What was once and is no longer in its place is a LUN of its own.
		want.LUNs = slices.Clone(want.LUNs)
		ids := index(have.LUNs, number)
		for i := range want.LUNs {
			if was := ids[number(want.LUNs[i])]; was != nil && want.LUNs[i].Identity == "" {
				want.LUNs[i].Identity = was.Identity
			}
		}
	}
	what := "target " + cmp.Or(have.Name, want.Name)
	if f := without(fieldsOf(plain(&have), plain(&want)), "name"); len(f) > 0 || verb != "change" {
		out = append(out, Change{verb, what, f})
	}
	for _, c := range lists("LUN", have.LUNs, want.LUNs, number) {
		c.What = what + " LUN " + cmp.Or(strings.TrimLeft(strings.TrimPrefix(c.What, "LUN "), "0"), "0")
		out = append(out, c)
	}
	return out
}

func index[T any](list []T, key func(T) string) map[string]*T {
	m := make(map[string]*T, len(list))
	for i := range list {
		m[key(list[i])] = &list[i]
	}
	return m
}

func union[T any](a, b map[string]*T) []string {
	keys := map[string]bool{}
	for k := range a {
		keys[k] = true
	}
	for k := range b {
		keys[k] = true
	}
	return slices.Sorted(maps.Keys(keys))
}

func without(f []FieldChange, names ...string) []FieldChange {
	return slices.DeleteFunc(f, func(c FieldChange) bool { return slices.Contains(names, c.Field) })
}

// fieldsOf compares two structs of one type field by field, in the order of the fields.
func fieldsOf[T any](have, want T) []FieldChange {
	return compare("", reflect.ValueOf(have), reflect.ValueOf(want))
}

func compare(prefix string, have, want reflect.Value) (out []FieldChange) {
	for i := range have.NumField() {
		key, _, _ := strings.Cut(have.Type().Field(i).Tag.Get("yaml"), ",")
		if key == "" || key == "-" {
			key = have.Type().Field(i).Name
		}
		key = prefix + key
		o, n := have.Field(i), want.Field(i)
		if o.Kind() == reflect.Struct {
			out = append(out, compare(key+".", o, n)...)
			continue
		}
		if from, to := valueText(o), valueText(n); from != to {
			out = append(out, FieldChange{key, from, to})
		}
	}
	return out
}

// valueText writes a field's value on one line; a default is empty.
func valueText(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		if v.Len() == 0 {
			return ""
		}
	case reflect.Pointer:
		if v.IsNil() {
			return ""
		}
		if e := v.Elem(); e.Kind() == reflect.Bool {
			return fmt.Sprint(e.Bool())
		}
	}
	if v.IsZero() {
		return ""
	}
	if v.Kind() == reflect.String {
		return fmt.Sprintf("%q", v.String())
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v.Interface()); err != nil {
		return fmt.Sprint(v.Interface())
	}
	return strings.TrimSpace(b.String())
}

// RenderDiff writes changes for people: a line for each, with +, - or ~ before it, and one below for each field that changes.
func RenderDiff(changes []Change) string {
	var b strings.Builder
	for i := range changes {
		c := &changes[i]
		switch c.Verb {
		case "change":
			fmt.Fprintf(&b, "~ %s\n", c.What)
			for _, f := range c.Fields {
				fmt.Fprintf(&b, "    %s: %s -> %s\n", f.Field, cmp.Or(f.From, "(default)"), cmp.Or(f.To, "(default)"))
			}
			continue
		case "add":
			b.WriteString("+ ")
		default:
			b.WriteString("- ")
		}
		b.WriteString(c.What)
		if d := c.Detail(); d != "" {
			b.WriteString(": " + d)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
