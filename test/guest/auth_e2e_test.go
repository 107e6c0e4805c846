//go:build e2e

package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The accounts of these tests; open-iscsi wants secrets of 12 bytes and more.
const (
	name, secret     = "guest-user", "guest-secret-1234"
	name2, secret2   = "lunar-user", "lunar-secret-5678"
	wrong            = "not-the-secret-90"
	refusedByTarget  = 24 // iscsiadm: "login failed due to authorization failure"
	refusedByItself  = 19 // iscsiadm: the initiator gave up on the login
	algorithms       = "SHA3-256,SHA256,SHA1,MD5"
	authKey          = "node.session.auth."
	discoveryAuthKey = "discovery.sendtargets.auth."
)

// auth writes lunard's file of accounts.
func auth(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "auth")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "--auth=" + path
}

// chap is the settings of an initiator's accounts: name and secret, and those that the target is to show.
func chap(key string, values ...string) []string {
	out := []string{key + "authmethod=CHAP"}
	for i, field := range []string{"username", "password", "username_in", "password_in"} {
		if i < len(values) {
			out = append(out, key+field+"="+values[i])
		}
	}
	return out
}

// tryLogin forgets the guest's record of the target, logs in with settings and, where that went well, reads
// and logs out; the answer is iscsiadm's status.
func tryLogin(t *testing.T, g *Guest, portal string, settings ...string) (out string, status int) {
	t.Helper()
	out, status = g.Try(t, fmt.Sprintf("iscsiadm -m node -o delete >/dev/null 2>&1; login %s %s %s", portal, iqn, strings.Join(settings, " ")))
	if status == 0 {
		g.Run(t, fmt.Sprintf("dd if=$(disk %s) of=/dev/null bs=64k count=4 iflag=direct status=none && logout %s", iqn, iqn))
	}
	return out, status
}

func TestCHAP(t *testing.T) {
	t.Parallel()
	s := serve(t, "64M", auth(t, "in "+name+" "+secret, "out "+name2+" "+secret2), "--trace=pdu")
	g := Boot(t)
	for _, c := range []struct {
		name     string
		settings []string
		status   int
	}{
		{"none", []string{authKey + "authmethod=None"}, refusedByTarget},
		{"one-way", chap(authKey, name, secret), 0},
		{"wrong secret", chap(authKey, name, wrong), refusedByTarget},
		{"wrong name", chap(authKey, "nobody", secret), refusedByTarget},
		{"mutual", chap(authKey, name, secret, name2, secret2), 0},
		{"wrong secret of the target", chap(authKey, name, secret, name2, wrong), refusedByItself},
		{"wrong name of the target", chap(authKey, name, secret, "nobody", secret2), refusedByItself},
	} {
		if out, status := tryLogin(t, g, s.Addr, c.settings...); status != c.status {
			t.Errorf("%s: status %d, want %d: %s", c.name, status, c.status, out)
		}
	}
	for number, algorithm := range map[int]string{5: "MD5", 6: "SHA1", 7: "SHA256", 8: "SHA3-256"} {
		before := len(s.Log())
		settings := append(chap(authKey, name, secret, name2, secret2), authKey+"chap_algs="+algorithm)
		if out, status := tryLogin(t, g, s.Addr, settings...); status != 0 {
			t.Errorf("%s: status %d: %s", algorithm, status, out)
		}
		if log, want := s.Log()[before:], fmt.Sprintf("CHAP_A=%d", number); !strings.Contains(log, want) {
			t.Errorf("%s: no %s among the PDUs:\n%s", algorithm, want, log)
		}
	}
	g.Shutdown(t)
	s.Stop(t)
}

func TestForbiddenMD5(t *testing.T) {
	t.Parallel()
	s := serve(t, "64M", auth(t, "in "+name+" "+secret), "--forbid-md5")
	g := Boot(t)
	account := chap(authKey, name, secret)
	if out, status := tryLogin(t, g, s.Addr, append(account, authKey+"chap_algs=MD5")...); status == 0 {
		t.Errorf("MD5 is taken: %s", out)
	}
	if out, status := tryLogin(t, g, s.Addr, append(account, authKey+"chap_algs="+algorithms)...); status != 0 {
		t.Errorf("with a list that has others: status %d: %s", status, out)
	}
	g.Shutdown(t)
	s.Stop(t)
}

func TestDiscoveryCHAP(t *testing.T) {
	t.Parallel()
	s := serve(t, "64M", auth(t, "in "+name+" "+secret))
	g := Boot(t)
	discover := func(settings []string) (string, int) {
		script := fmt.Sprintf("db='iscsiadm -m discoverydb -t sendtargets -p %s'; $db -o delete >/dev/null 2>&1; $db -o new >/dev/null", s.Addr)
		for _, kv := range settings {
			k, v, _ := strings.Cut(kv, "=")
			script += fmt.Sprintf(" && $db -o update -n %s -v %s", k, v)
		}
		return g.Try(t, script+" && $db --discover")
	}
	if out, status := discover(chap(discoveryAuthKey, name, secret)); status != 0 || !strings.Contains(out, iqn) {
		t.Errorf("status %d: %s", status, out)
	}
	for what, settings := range map[string][]string{"no account": nil, "wrong secret": chap(discoveryAuthKey, name, wrong)} {
		if out, status := discover(settings); status == 0 || strings.Contains(out, iqn) {
			t.Errorf("%s: status %d: %s", what, status, out)
		}
	}
	g.Shutdown(t)
	s.Stop(t)
}
