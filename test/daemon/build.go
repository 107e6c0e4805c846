package daemon

import (
	"errors"
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

// RBD is the lunard under test built with the tag rbd, on first use. The test is skipped where that cannot be built.
func RBD(t testing.TB) Program {
	t.Helper()
	if err := CheckRBD(); err != nil {
		deps.Skip(t, err.Error())
	}
	p, err := RBDProgram()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// RBDProgram is RBD for programs.
func RBDProgram() (Program, error) { return buildRBD() }

// CheckRBD says what is missing for building with the tag rbd.
func CheckRBD() error {
	_, err := rbdEnv("--check")
	return err
}

// BuildRBD builds a command of this module, by its folder ("cmd/lunard"), with the tag rbd.
func BuildRBD(folder string) (Program, error) {
	libs, err := rbdEnv("sh", "-c", "printf %s \"$LD_LIBRARY_PATH\"")
	if err != nil {
		return Program{}, err
	}
	path, err := buildCommand(folder, "-rbd", "scripts/rbd-env", "go", "build")
	return Program{Path: path, Env: append(os.Environ(), "LD_LIBRARY_PATH="+libs)}, err
}

// rbdEnv runs a command by scripts/rbd-env and returns what it writes.
func rbdEnv(command ...string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	c := exec.Command("scripts/rbd-env", command...)
	c.Dir = root
	out, err := c.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return "", errors.New(strings.TrimSpace(string(exit.Stderr)))
	}
	return string(out), err
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
	return buildCommand("cmd/"+command, "", "go", "build")
}

// buildCommand builds the command in a folder of the module by what begins with build; suffix tells it from the plain one.
func buildCommand(folder, suffix string, build ...string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	// A place of its own, so that a test never replaces the bin/lunard that somebody runs.
	name, cgo := filepath.Base(folder)+suffix, "CGO_ENABLED=0" // scripts/rbd-env sets it anew
	if os.Getenv("LUNAR_RACE") == "1" {
		name, build, cgo = name+"-race", append(build, "-race"), "CGO_ENABLED=1"
	}
	out := filepath.Join(root, "bin", "test", name)
	c := exec.Command(build[0], append(build[1:], "-o", out, "./"+folder)...)
	c.Dir = root
	c.Env = append(os.Environ(), cgo)
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
