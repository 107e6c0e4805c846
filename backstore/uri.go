package backstore

import (
	"fmt"
	"math"
	"net/url"
	"sort"
	"strconv"
	"strings"
)

// A URI names a volume: a scheme, the volume in the engine's own words, and options.
//
//	file:///srv/d.img?size=1G   mem:?size=64M   nbd+unix:///disk?socket=/run/q.sock   cbd:pool//vol_user_
type URI struct {
	Scheme string
	Host   string // host:port, for schemes with an authority ("//host/…")
	Path   string // percent-decoded; with an authority it begins with "/"
	opts   map[string]string
	used   map[string]bool
	raw    string
}

// ParseURI parses s. Options may be given once each; what an option means is the reader's
// business, and Unused tells which nobody read.
func ParseURI(s string) (*URI, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok || scheme == "" || strings.ContainsAny(scheme, "/?# ") {
		return nil, fmt.Errorf("volume %q: want SCHEME:VOLUME[?OPTION=VALUE&…], for example file:///srv/disk.img", withoutOptions(s))
	}
	u := &URI{Scheme: strings.ToLower(scheme), opts: map[string]string{}, used: map[string]bool{}, raw: s}
	rest, query, _ := strings.Cut(rest, "?")
	if after, ok := strings.CutPrefix(rest, "//"); ok {
		i := strings.IndexByte(after, '/')
		if i < 0 {
			i = len(after)
		}
		u.Host, rest = after[:i], after[i:]
	}
	path, err := url.PathUnescape(rest)
	if err != nil {
		return nil, fmt.Errorf("volume %q: %w", withoutOptions(s), err)
	}
	if strings.ContainsRune(path, 0) {
		return nil, fmt.Errorf("volume %q: a NUL byte in the name", withoutOptions(s))
	}
	u.Path = path
	for query != "" {
		var kv string
		kv, query, _ = strings.Cut(query, "&")
		k, v, _ := strings.Cut(kv, "=")
		if k, err = url.QueryUnescape(k); err == nil {
			v, err = url.PathUnescape(v)
		}
		if err != nil {
			return nil, fmt.Errorf("volume %q: option %q: bad percent-encoding in its name or value", withoutOptions(s), k)
		}
		if k == "" {
			return nil, fmt.Errorf("volume %q: an option without a name", withoutOptions(s))
		}
		if _, dup := u.opts[k]; dup {
			return nil, fmt.Errorf("volume %q: option %q is given twice", withoutOptions(s), k)
		}
		u.opts[k] = v
	}
	return u, nil
}

// String returns the URI as it was given.
func (u *URI) String() string { return u.raw }

// Shown is u for a log or an error: without its options, which may hold what opens the volume.
func (u *URI) Shown() string { return withoutOptions(u.raw) }

func withoutOptions(s string) string {
	if volume, _, has := strings.Cut(s, "?"); has {
		return volume + "?…"
	}
	return s
}

// Option returns an option's value and whether it is there, and marks it as read.
func (u *URI) Option(name string) (string, bool) {
	v, ok := u.opts[name]
	if ok {
		u.used[name] = true
	}
	return v, ok
}

// Peek returns an option's value without marking it as read.
func (u *URI) Peek(name string) (string, bool) {
	v, ok := u.opts[name]
	return v, ok
}

// Bool reads an on/off option: on, yes, true, 1 or an empty value, and their opposites.
func (u *URI) Bool(name string, def bool) (bool, error) {
	v, ok := u.Option(name)
	if !ok {
		return def, nil
	}
	switch strings.ToLower(v) {
	case "", "on", "yes", "true", "1":
		return true, nil
	case "off", "no", "false", "0":
		return false, nil
	}
	return false, fmt.Errorf("option %s=%s: want on or off", name, v)
}

// Size reads an option in bytes with an optional binary suffix (ParseSize).
func (u *URI) Size(name string, def int64) (int64, error) {
	v, ok := u.Option(name)
	if !ok {
		return def, nil
	}
	n, err := ParseSize(v)
	if err != nil {
		return 0, fmt.Errorf("option %s: %w", name, err)
	}
	return n, nil
}

// Unused returns the names of the options that nobody has read, sorted.
func (u *URI) Unused() []string {
	var names []string
	for k := range u.opts {
		if !u.used[k] {
			names = append(names, k)
		}
	}
	sort.Strings(names)
	return names
}

// ParseSize parses a number of bytes with an optional suffix K, M, G, T, P or E (powers of 1024).
func ParseSize(s string) (int64, error) {
	digits, shift := s, 0
	if n := len(s); n > 0 {
		if i := strings.IndexByte("KMGTPE", s[n-1]&^0x20); i >= 0 {
			digits, shift = s[:n-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is no size: want bytes, or a number with K, M, G, T, P or E", s)
	}
	if n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is more than 2^63-1 bytes", s)
	}
	return int64(n << shift), nil
}
