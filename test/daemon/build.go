package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lunar-iscsi/lunar/test/deps"
)

var (
	build         = sync.OnceValues(func() (string, error) { return buildPlain("lunard") })
	buildTgtadm   = sync.OnceValues(func() (string, error) { return buildPlain("tgtadm") })
	buildLunarctl = sync.OnceValues(func() (string, error) { return buildPlain("lunarctl") })
	buildRBD      = sync.OnceValues(func() (Program, error) { return BuildRBD("cmd/lunard") })
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

// RBD is the lunard under test built with the tag rbd, on first use. The test is skipped where librbd or a C compiler is not there.
func RBD(t testing.TB) Program {
	t.Helper()
	if _, err := deps.FindLibrbd(); err != nil {
		deps.Skip(t, err.Error())
	}
	p, err := buildRBD()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// RBDProgram is RBD for programs.
func RBDProgram() (Program, error) { return buildRBD() }

// BuildRBD builds a command of this module, by its folder ("cmd/lunard"), with the tag rbd.
func BuildRBD(folder string) (Program, error) {
	lib, err := deps.FindLibrbd()
	if err != nil {
		return Program{}, err
	}
	path, err := buildCommand(folder, "-rbd", "-tags="+lib.Tags, lib.BuildEnv())
	return Program{Path: path, Env: lib.Env()}, err
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

func buildPlain(command string) (string, error) {
	return buildCommand("cmd/"+command, "", "-tags=", []string{"CGO_ENABLED=0"})
}

// buildCommand builds the command in a folder of the module; suffix tells a build by other tags from the plain one.
func buildCommand(folder, suffix, tags string, env []string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	// A place of its own, so that a test never replaces the bin/lunard that somebody runs.
	name, args := filepath.Base(folder)+suffix, []string{"build", tags}
	if os.Getenv("LUNAR_RACE") == "1" {
		name, args, env = name+"-race", append(args, "-race"), append(env, "CGO_ENABLED=1")
	}
	out := filepath.Join(root, "bin", "test", name)
	c := exec.Command("go", append(args, "-o", out, "./"+folder)...)
	c.Dir = root
	c.Env = append(os.Environ(), env...)
	if msg, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, msg)
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
