package deps

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

// A Librbd is what programs are built and run with that use Ceph's client libraries, unpacked or installed.
type Librbd struct {
	Tags string // build tags, with commas

	header string
	tool   *Tool // whose environment finds the libraries
}

// pacific is the minor version of librbd in Ceph 16, which go-ceph has to be told of; it takes later releases without a word.
const pacific = 16

var librbdMinor = regexp.MustCompile(`(?m)^#define LIBRBD_VER_MINOR (\d+)`)

// FindLibrbd finds librbd with its headers, and a C compiler; the error says what is missing.
func FindLibrbd() (*Librbd, error) {
	if _, err := exec.LookPath("gcc"); err != nil {
		return nil, fmt.Errorf("a C compiler: %w", err)
	}
	root := filepath.Join(Dir(), "root")
	for _, l := range []Librbd{
		{header: filepath.Join(root, "usr/include/rbd/librbd.h"), tool: &Tool{root: root}},
		{header: "/usr/include/rbd/librbd.h", tool: &Tool{}},
	} {
		text, err := os.ReadFile(l.header)
		if err != nil {
			continue
		}
		m := librbdMinor.FindSubmatch(text)
		if m == nil {
			return nil, fmt.Errorf("%s does not say its version", l.header)
		}
		l.Tags = "rbd"
		if n, _ := strconv.Atoi(string(m[1])); n <= pacific { // digits, by the pattern
			l.Tags += ",pacific"
		}
		return &l, nil
	}
	return nil, errors.New("librbd's headers not found: scripts/test-deps ceph fetches them")
}

// BuildEnv is what the go command needs besides this process's environment.
func (l *Librbd) BuildEnv() []string {
	env := []string{"CGO_ENABLED=1"}
	lib := l.tool.Lib("librbd.so")
	if lib == "" {
		return env
	}
	dir := filepath.Dir(lib)
	include := filepath.Dir(filepath.Dir(l.header))
	// What the libraries need themselves is found at run time, by Env; the linker need not.
	return append(env, "CGO_CFLAGS=-O2 -g -I"+include, "CGO_LDFLAGS=-L"+dir+" -Wl,--allow-shlib-undefined")
}

// Env is what a program that is linked with librbd runs in.
func (l *Librbd) Env() []string { return l.tool.Env() }
