package lifecycle

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/deps"
)

// authFile makes a file of accounts in dir and returns its path.
func authFile(t *testing.T, dir string, lines ...string) string {
	t.Helper()
	path := filepath.Join(dir, "auth")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAuthentication has libiscsi and our own initiator log in with CHAP, one-way and mutual, with right secrets and wrong ones,
// and looks for the secrets in everything that the daemon writes.
func TestAuthentication(t *testing.T) {
	d := daemon.Start(t, "--auth="+authFile(t, t.TempDir(), "in joe secret-of-joe-1", "in 0xjim secret-of-jim", "out lunar secret-of-lunar"),
		"--log-level=debug", "--trace=pdu,scsi", "--login-fail-delay=1ms", daemon.Export(disk, "mem:?size=1M"))
	for _, c := range []struct {
		user, extra string
		ok          bool
	}{
		{"joe%secret-of-joe-1@", "", true},
		{"0xjim%secret-of-jim@", "", true},
		{"joe%secret-of-joe-1@", "?target_user=lunar&target_password=secret-of-lunar", true},
		{"joe%secret-of-jim@", "", false},
		{"", "", false},
		{"joe%secret-of-joe-1@", "?target_user=lunar&target_password=secret-of-moon", false},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), answerLimit)
		url := "iscsi://" + c.user + d.Addr + "/" + daemon.Prefix + disk + "/1" + c.extra
		out, err := deps.Find(t, "iscsi-inq").Command(ctx, url).CombinedOutput()
		cancel()
		if (err == nil) != c.ok {
			t.Errorf("iscsi-inq %s: %v\n%s", url, err, out)
		}
	}
	o := initiator.Options{Portal: d.Addr, CHAP: &initiator.CHAP{Name: "joe", Secret: []byte("secret-of-joe-1"), TargetSecret: []byte("secret-of-lunar")}}
	if list, err := initiator.Discover(t.Context(), o); err != nil || len(list) != 1 {
		t.Errorf("discovery: %v, %v", list, err)
	}
	d.Stop(t)
	log := d.Log()
	if want := "CHAP_N=joe CHAP_R=("; !strings.Contains(log, want) {
		t.Errorf("the log has no %s", want)
	}
	for _, never := range []string{"secret-of-", "CHAP_R=0", "CHAP_C=0"} {
		if strings.Contains(log, never) {
			t.Errorf("the log has %s", never)
		}
	}
}

// A short secret is said once, at the start, without showing it.
func TestShortSecret(t *testing.T) {
	d := daemon.Start(t, "--auth="+authFile(t, t.TempDir(), "in joe short", "in jim long-enough-1"), daemon.Export(disk, "mem:?size=1M"))
	d.Stop(t)
	if log := d.Log(); strings.Count(log, "level=warning") != 1 || !strings.Contains(log, "account=joe") || strings.Contains(log, "=short") {
		t.Error(log)
	}
}
