package lunarv1_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGenerated: the committed code is what the .proto files make, as far as generated.sum can tell: `make generate` writes it.
func TestGenerated(t *testing.T) {
	root := filepath.Join("..", "..")
	f, err := os.Open(filepath.Join(root, "generated.sum"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	listed := map[string]bool{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		sum, name, ok := strings.Cut(sc.Text(), "  ")
		if !ok {
			continue // the line with the tools
		}
		listed[filepath.Base(name)] = true
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Errorf("%v: make generate", err)
			continue
		}
		if got := sha256.Sum256(content); hex.EncodeToString(got[:]) != sum {
			t.Errorf("%s is not as it was when the code was generated: make generate", name)
		}
	}
	for _, pattern := range []string{"*.proto", "*.pb.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, name := range files {
			if !listed[name] {
				t.Errorf("%s is not in generated.sum: make generate", name)
			}
		}
	}
}
