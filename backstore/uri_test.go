package backstore

import (
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestParseURI(t *testing.T) {
	for _, c := range []struct {
		uri, scheme, host, path string
		opts                    map[string]string
	}{
		{"file:///srv/d.img?size=1G&thin=on", "file", "", "/srv/d.img", map[string]string{"size": "1G", "thin": "on"}},
		{"file:rel/d.img", "file", "", "rel/d.img", nil},
		{"FILE:/srv/a%20b%3Fc%25.img", "file", "", "/srv/a b?c%.img", nil},
		{"mem:?size=64M", "mem", "", "", map[string]string{"size": "64M"}},
		{"null:", "null", "", "", nil},
		{"nbd+unix:///disk?socket=/run/q.sock", "nbd+unix", "", "/disk", map[string]string{"socket": "/run/q.sock"}},
		{"nbd://[::1]:10809/disk", "nbd", "[::1]:10809", "/disk", nil},
		{"nbd://host", "nbd", "host", "", nil},
		{"cbd:pool//volume_user_", "cbd", "", "pool//volume_user_", nil},
		{"rbd:pool/image?conf=/etc/a+b", "rbd", "", "pool/image", map[string]string{"conf": "/etc/a+b"}},
		{"x:y?readonly&a=", "x", "", "y", map[string]string{"readonly": "", "a": ""}},
		{"x:y?a=b=c%26d", "x", "", "y", map[string]string{"a": "b=c&d"}},
		{"x:y?a=1&", "x", "", "y", map[string]string{"a": "1"}},
		{"faulty:?inner=mem%3A%3Fsize%3D1M&rule=read,error=medium", "faulty", "", "", map[string]string{"inner": "mem:?size=1M", "rule": "read,error=medium"}},
	} {
		u, err := ParseURI(c.uri)
		if err != nil {
			t.Errorf("%s: %v", c.uri, err)
			continue
		}
		if u.Scheme != c.scheme || u.Host != c.host || u.Path != c.path || u.String() != c.uri || len(u.opts) != len(c.opts) {
			t.Errorf("%s: %+v", c.uri, u)
		}
		for k, want := range c.opts {
			if got, ok := u.Option(k); !ok || got != want {
				t.Errorf("%s: option %s is %q", c.uri, k, got)
			}
		}
		if left := u.Unused(); len(left) != 0 {
			t.Errorf("%s: unused %q after all were read", c.uri, left)
		}
	}
	for _, s := range []string{"", "/srv/d.img", "d.img", ":x", "a b:x", "a/b:c", "x:%zz", "x:y?a=%z", "x:y?%z=a", "x:y?a=1&a=2", "x:y?=1", "x:y?&", "x:a%00b", "d.img?key=1", "x:y?a=hush1&a=hush2", "x:y?a=hush%z", "x:%zz?a=hush", "x:x?%z=hush"} {
		volume, _, _ := strings.Cut(s, "?")
		if u, err := ParseURI(s); err == nil {
			t.Errorf("%q was taken: %+v", s, u)
		} else if !strings.Contains(err.Error(), strings.TrimSuffix(strconv.Quote(volume), `"`)) {
			t.Errorf("%q: %v does not say which", s, err)
		} else if strings.Contains(strings.ReplaceAll(err.Error(), strconv.Quote(volume+"?…"), ""), "hush") {
			t.Errorf("%q: %v tells an option's value, which may be a secret", s, err)
		}
	}
}

func TestOptions(t *testing.T) {
	u, err := ParseURI("x:?a&b=on&c=NO&d=perhaps&n=4k&m=x&z=1")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"a": true, "b": true, "c": false, "absent": true} {
		if got, err := u.Bool(name, true); err != nil || got != want {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
	if _, err := u.Bool("d", false); err == nil || !strings.Contains(err.Error(), "d=perhaps") {
		t.Errorf("d: %v", err)
	}
	if n, err := u.Size("n", 1); n != 4096 || err != nil {
		t.Errorf("n: %d %v", n, err)
	}
	if n, err := u.Size("absent", 77); n != 77 || err != nil {
		t.Errorf("absent: %d %v", n, err)
	}
	if _, err := u.Size("m", 1); err == nil || !strings.Contains(err.Error(), "option m") {
		t.Errorf("m: %v", err)
	}
	if left := u.Unused(); !slices.Equal(left, []string{"z"}) {
		t.Errorf("unused %q, want z", left)
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "1": 1, "512": 512, "1k": 1024, "1K": 1024, "64M": 64 << 20, "2T": 2 << 40, "3p": 3 << 50,
		"7E": 7 << 60, "0E": 0, "9223372036854775807": math.MaxInt64, "8191P": 8191 << 50, "9007199254740991K": math.MaxInt64 &^ 1023} {
		if n, err := ParseSize(s); n != want || err != nil {
			t.Errorf("%s: %d %v, want %d", s, n, err, want)
		}
	}
	for _, s := range []string{"", "K", "-1", "+1", "-0", "1.5G", "1 G", "1KB", "1KiB", "0x10", "1_000", "8E", "8192P", "9007199254740992K", "9223372036854775808", "99999999999999999999", "١"} {
		if n, err := ParseSize(s); err == nil {
			t.Errorf("%q was taken as %d", s, n)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	for _, s := range []string{"file:///srv/d.img?size=1G&thin=on", "mem:?size=64M", "nbd://[::1]:1/x", "cbd:pool//v_u_", "x:%41?%41=%42&b", "x:y?a=1&a=2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		if err != nil {
			return
		}
		if u.String() != s || u.Scheme == "" || u.Scheme != strings.ToLower(u.Scheme) || strings.ContainsRune(u.Path, 0) {
			t.Fatalf("%q: %+v", s, u)
		}
		// Written out again from its parts it is the same volume.
		again := u.Scheme + ":"
		if u.Host != "" {
			again += "//" + u.Host
		} else if strings.HasPrefix(u.Path, "//") {
			again += "//"
		}
		again += (&url.URL{Path: u.Path}).EscapedPath()
		sep := "?"
		for _, k := range u.Unused() {
			v, _ := u.Option(k)
			again += sep + url.QueryEscape(k) + "=" + url.PathEscape(v)
			sep = "&"
		}
		v, err := ParseURI(again)
		if err != nil || v.Scheme != u.Scheme || v.Host != u.Host || v.Path != u.Path || len(v.opts) != len(u.opts) {
			t.Fatalf("%q → %q: %v %+v %+v", s, again, err, u, v)
		}
		for k, want := range u.opts {
			if v.opts[k] != want {
				t.Fatalf("%q → %q: option %q is %q, was %q", s, again, k, v.opts[k], want)
			}
		}
	})
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"0", "1G", "7e", "8E", "-1", "9223372036854775807", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			return
		}
		if n < 0 {
			t.Fatalf("%q: %d", s, n)
		}
		if m, err := ParseSize(strconv.FormatInt(n, 10)); m != n || err != nil {
			t.Fatalf("%q: %d, and again %d %v", s, n, m, err)
		}
	})
}
