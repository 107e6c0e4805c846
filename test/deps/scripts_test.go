package deps

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// script runs one of the module's scripts with an environment of its own.
func script(t *testing.T, env []string, name string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	gomod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(filepath.Join(filepath.Dir(strings.TrimSpace(string(gomod))), "scripts", name), args...)
	c.Env = env
	var out, said strings.Builder
	c.Stdout, c.Stderr = &out, &said
	if err := c.Run(); err != nil && c.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), said.String(), c.ProcessState.ExitCode()
}

// What has been unpacked once is there without apt and without the network.
func TestSecondFetchNeedsNothing(t *testing.T) {
	if stamps, _ := filepath.Glob(filepath.Join(Dir(), ".stamp-test-*")); len(stamps) == 0 {
		Skip(t, "nothing was fetched into "+Dir()+": scripts/test-deps does that")
	}
	env := []string{"PATH=/usr/bin:/bin", "LUNAR_DEPS=" + Dir(), "APT_CONFIG=/nonexistent", "http_proxy=http://127.0.0.1:9"}
	out, said, status := script(t, env, "test-deps", "test")
	if status != 0 || said != "" || !strings.Contains(out, "already in "+Dir()) {
		t.Errorf("status %d, %q, %q", status, out, said)
	}
}

func TestFetchNamesWhatItCannotDo(t *testing.T) {
	dir := t.TempDir()
	env := []string{"PATH=/usr/bin:/bin", "LUNAR_DEPS=" + filepath.Join(dir, "deps")}
	if _, said, status := script(t, env, "test-deps", "everything"); status != 1 || strings.Count(said, "\n") != 1 || !strings.Contains(said, "'everything'") {
		t.Errorf("a set that is none: status %d, %q", status, said)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("it left %v, %v", entries, err)
	}
}

// An older Go is refused in one line, which says what is there and what is wanted.
func TestOldGoIsRefused(t *testing.T) {
	for version, ok := range map[string]bool{
		"go1.19.8": false, "go1.24.9": false, "go1.25.0": true, "go1.26.8": true, "go1.26-custom": true, "devel go1.27-abcdef": true, "nonsense": false,
	} {
		dir := t.TempDir()
		fake := "#!/bin/sh\necho '" + version + "'\n"
		if strings.HasPrefix(version, "go1.19") {
			// It does not understand our go.mod and fails within the module.
			fake = "#!/bin/sh\n[ \"$PWD\" = / ] && { echo go1.19.8; exit; }\necho \"invalid go version '1.25.0'\" >&2\nexit 1\n"
		}
		if err := os.WriteFile(filepath.Join(dir, "go"), []byte(fake), 0o755); err != nil {
			t.Fatal(err)
		}
		_, said, status := script(t, []string{"PATH=" + dir + ":/usr/bin:/bin"}, "check-go")
		switch {
		case ok && (status != 0 || said != ""):
			t.Errorf("%s: status %d, %q; want it taken", version, status, said)
		case !ok && (status != 1 || strings.Count(said, "\n") != 1 || !strings.Contains(said, "Go 1.25") || !strings.Contains(said, version)):
			t.Errorf("%s: status %d, %q; want it refused in one line", version, status, said)
		}
	}
}
