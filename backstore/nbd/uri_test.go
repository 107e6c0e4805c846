package nbd

import (
	"context"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
)

func mustParse(t testing.TB, uri string) *backstore.URI {
	t.Helper()
	u, err := backstore.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// The names of the URI specification, its own examples among them.
func TestURIs(t *testing.T) {
	for _, tc := range []struct {
		uri, network, addr, export string
		tls                        bool
		host                       string // whose certificate is wanted
	}{
		{"nbd://example.com:10809/export", "tcp", "example.com:10809", "export", false, ""},
		{"nbd+unix:///export?socket=nbd.sock", "unix", "nbd.sock", "export", false, ""},
		{"nbd://example.com/disk", "tcp", "example.com:10809", "disk", false, ""},
		{"nbd://example.com/", "tcp", "example.com:10809", "", false, ""},
		{"nbd://example.com", "tcp", "example.com:10809", "", false, ""},
		{"nbd://example.com//disk", "tcp", "example.com:10809", "/disk", false, ""},
		{"nbd://example.com/hello%20world", "tcp", "example.com:10809", "hello world", false, ""},
		{"nbd://example.com/a%2Fb%3Fc%25", "tcp", "example.com:10809", "a/b?c%", false, ""},
		{"nbd+unix:///?socket=%00/abstract", "unix", "@/abstract", "", false, ""},
		{"nbd+unix:///a/b?socket=/run/a%20b%26c", "unix", "/run/a b&c", "a/b", false, ""},
		{"nbds://Example.com:1/x", "tcp", "example.com:1", "x", true, "Example.com"},
		{"nbds://[::1]/x", "tcp", "[::1]:10809", "x", true, "::1"},
		{"nbd://[fe80::1%25eth0]:7/x", "tcp", "[fe80::1%eth0]:7", "x", false, ""},
		{"nbds://[fe80::1%25eth0]/x", "tcp", "[fe80::1%eth0]:10809", "x", true, "fe80::1"},
		{"nbds://h/x?tls-hostname=other", "tcp", "h:10809", "x", true, "other"},
		{"nbds+unix:///?socket=/s", "unix", "/s", "", true, ""},
		{"nbd://h:/x", "tcp", "h:10809", "x", false, ""},
	} {
		c, err := parse(mustParse(t, tc.uri), backstore.Options{})
		if err != nil {
			t.Errorf("%s: %v", tc.uri, err)
		} else if c.network != tc.network || c.addr != tc.addr || c.export != tc.export || c.tls != tc.tls || c.tlsHost != tc.host {
			t.Errorf("%s: %+v", tc.uri, c)
		}
	}
	for uri, want := range map[string]string{
		"nbd:///x":                         "the host is missing",
		"nbd://:7/x":                       "the host is missing",
		"nbd://h:0/x":                      "no port",
		"nbd://h:65536/x":                  "no port",
		"nbd://h:nbd/x":                    "no port",
		"nbd://h%zz/x":                     "invalid URL escape",
		"nbds://alice@h/x":                 "pre-shared keys",
		"nbds+unix://alice@/x?socket=/s":   "pre-shared keys",
		"nbd+unix:///x":                    "socket=PATH is missing",
		"nbd+unix://h/x?socket=/s":         "has no host",
		"nbds+unix:///x?socket=":           "socket=PATH is missing",
		"nbd://h/x?socket=/s":              "belongs to nbd+unix",
		"nbd://h/x?tls-certificates=/d":    "write nbds",
		"nbds://h/x?tls-verify-peer=maybe": "tls-verify-peer",
		"nbds://h/x?tls-psk-file=/k":       "pre-shared keys",
		"nbd+vsock://2/x":                  "AF_VSOCK",
		"nbds+vsock://2/x":                 "AF_VSOCK",
		"nbd://h/x?timeout=30":             `no option "timeout"`,
		"nbd://h/x?offline_after=-1":       "want 0 (never) or more",
	} {
		_, err := backstore.NewRegistry(Drivers()...).Open(context.Background(), mustParse(t, uri), backstore.Options{})
		if err == nil || !strings.Contains(err.Error(), want) || backstore.ClassOf(err) != backstore.ClassUnsupported {
			t.Errorf("%s: %v, want %q", uri, err, want)
		}
	}
	// What no protocol word can do is refused before anything is opened.
	_, err := open(context.Background(), mustParse(t, "nbd://h/x"), backstore.Options{TakeOver: true})
	classIs(t, err, backstore.ClassUnsupported)
}

// URIs of one key name one export, however it is reached.
func TestKey(t *testing.T) {
	reg := backstore.NewRegistry(Drivers()...)
	for _, tc := range []struct {
		a, b string
		same bool
	}{
		{"nbd://h/x", "nbd://H:10809/x?connections=1", true},
		{"nbd://h/x", "nbds://h/x", true},
		{"nbd://h/x", "nbd://h:10810/x", false},
		{"nbd://h/x", "nbd://h/y", false},
		{"nbd://h", "nbd://h/", true},
		{"nbd+unix:///?socket=/a", "nbd+unix:///?socket=/b", false},
		{"nbd+unix:///x?socket=/a", "nbd+unix:///y?socket=/a", false},
		{"nbd+unix:///x?socket=/a", "nbds+unix:///x?socket=%2Fa&readonly", true},
		{"nbd+unix:///x", "nbd+unix:///x?socket=/a", false},
	} {
		if a, b := reg.Key(mustParse(t, tc.a)), reg.Key(mustParse(t, tc.b)); a == "" || (a == b) != tc.same {
			t.Errorf("%s and %s: keys %q and %q", tc.a, tc.b, a, b)
		}
	}
}
