//go:build e2e

package mutation

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/test/deps"
)

// TestMutants breaks the code in each way that the list knows and wants the test named there to fail, having
// passed before.
func TestMutants(t *testing.T) {
	list, err := Load(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	passes := map[string]bool{} // unbroken
	for i := range list {
		m := &list[i]
		t.Run(m.Name, func(t *testing.T) {
			if m.Needs == needsCachestat && !cachestat(t) {
				deps.Skip(t, "this kernel does not tell which pages are dirty (cachestat, Linux 6.5): the test would see no difference")
			}
			key := m.Package + " " + m.Test
			if _, ran := passes[key]; !ran {
				r := run(t, m, "")
				passes[key] = r.passed
				if !r.passed {
					t.Errorf("%s does not pass on the unbroken code:\n%s", key, r.output)
				}
			}
			if !passes[key] {
				t.Fatal("its test does not pass, so its failure would prove nothing")
			}
			r := run(t, m, overlay(t, m))
			switch {
			case r.passed:
				t.Errorf("%s:%d: %s passes with %s broken:\n%s", File, m.Line, key, m.Path, m.New)
			case !r.failed:
				t.Errorf("%s:%d: %s did not run to its end; a mutant must compile:\n%s", File, m.Line, key, r.output)
			}
		})
	}
}

// cachestat reports whether the kernel has the call of that name.
func cachestat(t *testing.T) bool {
	f, err := os.Open(File[strings.LastIndexByte(File, '/')+1:])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var cs unix.Cachestat_t
	return unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &cs, 0) == nil
}

// overlay writes the broken file and the go command's list of replacements, and returns the name of the latter.
func overlay(t *testing.T, m *Mutant) string {
	path, err := filepath.Abs(filepath.Join(root, filepath.FromSlash(m.Path)))
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	broken, err := m.Apply(src)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	instead := filepath.Join(dir, filepath.Base(path))
	if err := os.WriteFile(instead, broken, 0o644); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{"Replace": map[string]string{path: instead}})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// A result is what became of one test.
type result struct {
	passed, failed bool // neither: it was not built, or not run
	output         string
}

// run runs m's test alone, on the code with an overlay or without.
func run(t *testing.T, m *Mutant, overlay string) result {
	parts := strings.Split(m.Test, "/")
	for i, p := range parts {
		parts[i] = "^" + p + "$"
	}
	args := []string{"test", "-json", "-vet=off", "-count=1", "-timeout=120s", "-run", strings.Join(parts, "/")}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.Command("go", append(args, m.Package)...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, runErr := cmd.Output()
	var r result
	var text strings.Builder
	for sc := bufio.NewScanner(bytes.NewReader(out)); sc.Scan(); {
		var ev struct{ Action, Test, Output string }
		if err := json.Unmarshal(sc.Bytes(), &ev); err != nil {
			continue // the linker speaks
		}
		text.WriteString(ev.Output)
		if ev.Test == m.Test {
			r.passed = r.passed || ev.Action == "pass"
			r.failed = r.failed || ev.Action == "fail"
		}
	}
	if runErr == nil && r.failed || runErr != nil && r.passed {
		t.Fatalf("go test says %v, its events something else", runErr)
	}
	r.output = fmt.Sprint(text.String(), stderr.String())
	return r
}
