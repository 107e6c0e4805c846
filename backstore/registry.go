package backstore

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Options are what the daemon, not the URI, says about an opening.
type Options struct {
	// ReadOnly opens the volume without the right to write, whatever the URI says.
	ReadOnly bool
	// TakeOver shuts out whoever has the volume open, before it is opened: once Open has returned, nothing that they submitted will be applied.
	// ClassUnsupported where the engine cannot promise that.
	TakeOver bool
	// Warn takes one-line remarks for the log (a fallback taken, an option without effect). Nil drops them.
	Warn func(string)
}

// A Driver opens volumes of one URI scheme.
type Driver struct {
	Scheme string // "file"; "nbd+unix" and the like are further rows
	// Help is one line for people: how a volume is named and with which options.
	Help string
	// Options are the URI options that Open reads. Any other that the caller of Registry.Open has not read
	// itself is an error, found before Open could create something.
	Options []string
	// Open opens the volume. It may block, within ctx; it creates nothing unless the URI's
	// own size option asks for that.
	Open func(ctx context.Context, u *URI, o Options) (Store, error)

	// Absent says why this driver is not built in and what to do about it; Open is then nil. Empty: it is.
	Absent string
	// Traits are what is true of every volume of it, in a few words for people: "fua", "discard", "take over".
	Traits []string
	// Volumes is what it can do with volumes besides opening them; nil: nothing.
	Volumes *Volumes
	// Key tells volumes apart (Registry.Key); nil: by scheme, host and path.
	Key func(u *URI) string
}

// A Registry holds the drivers that a program has built in. It is filled by hand (no init) and
// read-only afterwards.
type Registry struct{ drivers map[string]Driver }

// NewRegistry returns a registry of the given drivers. Two of one scheme are a programming error.
func NewRegistry(drivers ...Driver) *Registry {
	r := &Registry{drivers: make(map[string]Driver, len(drivers))}
	for _, d := range drivers {
		if _, dup := r.drivers[d.Scheme]; dup {
			panic("backstore: two drivers for " + d.Scheme)
		}
		r.drivers[d.Scheme] = d
	}
	return r
}

// Drivers returns the drivers in order of scheme.
func (r *Registry) Drivers() []Driver {
	out := make([]Driver, 0, len(r.drivers))
	for _, d := range r.drivers {
		out = append(out, d)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Scheme < out[j].Scheme })
	return out
}

// Open opens the volume that u names with the driver of its scheme.
func (r *Registry) Open(ctx context.Context, u *URI, o Options) (Store, error) {
	d, err := r.driver(u)
	if err != nil {
		return nil, err
	}
	for _, name := range u.Unused() {
		if !slices.Contains(d.Options, name) {
			return nil, &Error{Class: ClassUnsupported, Op: "open", Cause: fmt.Errorf("there is no option %q; the %s driver has: %s", name, d.Scheme, strings.Join(d.Options, ", "))}
		}
	}
	return d.Open(ctx, u, o)
}

// driver returns the driver of u's scheme, if it is built in.
func (r *Registry) driver(u *URI) (Driver, error) {
	d, ok := r.drivers[u.Scheme]
	if !ok {
		var known []string
		for _, d := range r.Drivers() {
			known = append(known, d.Scheme)
		}
		return d, &Error{Class: ClassUnsupported, Op: "open", Cause: fmt.Errorf("no driver for %q is built in; there are: %s", u.Scheme, strings.Join(known, ", "))}
	}
	if d.Absent != "" {
		return d, &Error{Class: ClassUnsupported, Op: "open", Cause: fmt.Errorf("the %s driver is not built in: %s", u.Scheme, d.Absent)}
	}
	return d, nil
}
