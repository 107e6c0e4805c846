package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var (
	build         = sync.OnceValues(func() (string, error) { return buildCommand("lunard") })
	buildTgtadm   = sync.OnceValues(func() (string, error) { return buildCommand("tgtadm") })
	buildLunarctl = sync.OnceValues(func() (string, error) { return buildCommand("lunarctl") })
)

// Binary is the path of the lunard under test, built on first use.
func Binary(t testing.TB) string {
	t.Helper()
	p, err := Build()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Build is Binary for programs.
func Build() (string, error) {
	if p := os.Getenv("LUNAR_BIN"); p != "" {
		return p, nil
	}
	return build()
}

// Tgtadm is the path of our tgtadm, built on first use.
func Tgtadm(t testing.TB) string {
	t.Helper()
	p, err := buildTgtadm()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Lunarctl is the path of lunarctl, built on first use.
func Lunarctl(t testing.TB) string {
	t.Helper()
	p, err := buildLunarctl()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func buildCommand(command string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	// A place of its own, so that a test never replaces the bin/lunard that somebody runs.
	name, args := command, []string{"build"}
	cgo := "CGO_ENABLED=0"
	if os.Getenv("LUNAR_RACE") == "1" {
		name, args, cgo = command+"-race", append(args, "-race"), "CGO_ENABLED=1"
	}
	out := filepath.Join(root, "bin", "test", name)
	c := exec.Command("go", append(args, "-o", out, "./cmd/"+command)...)
	c.Dir = root
	c.Env = append(os.Environ(), cgo)
	if msg, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", command, err, msg)
	}
	return out, nil
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}
