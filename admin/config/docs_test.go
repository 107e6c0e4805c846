package config

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The table of keys in docs/config.md has each key that a file may have, and no other.
func TestDocumentedKeys(t *testing.T) {
	data, err := os.ReadFile("../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(data), "\n## Every key\n")
	if !ok {
		t.Fatal("no such section")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	var rows []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(table, -1) {
		rows = append(rows, m[1])
	}
	var keys []string
	for _, k := range Keys() {
		keys = append(keys, k.Path)
		if !slices.Contains(rows, k.Path) {
			t.Errorf("%s (%s) has no row", k.Path, k.Type)
		}
	}
	for i, r := range rows {
		if !slices.Contains(keys, r) {
			t.Errorf("%s is no key", r)
		}
		if slices.Contains(rows[:i], r) {
			t.Errorf("%s has two rows", r)
		}
	}
}
