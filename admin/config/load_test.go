package config

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// write puts files into a new folder, mode 0600, and returns it.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	into(t, dir, files)
	return dir
}

// into puts files into a folder, mode 0600.
func into(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func load(t *testing.T, text string) *File {
	t.Helper()
	f, err := Load(filepath.Join(write(t, map[string]string{"lunar.yaml": text}), "lunar.yaml"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// The forms that people write short are the same document as the long ones.
func TestShortForms(t *testing.T) {
	short := load(t, `
portals: ["192.0.2.1:3260", {address: "[::1]:3261", group: 2}]
accounts: [{name: alice, secret: 123456789012}, {name: us, secret: "0x1234567890ab"}]
targets:
  - name: iqn.2026-11.io.lunar:a
    access: [ALL, 192.0.2.7, 192.0.2.0/24, "2001:db8::1", "[2001:db8::]/32", iqn.2026-11.io.lunar:host, "iqn.*", "*", {address: 10.0.0.0/8, read-only: yes}]
    auth: {incoming: alice, outgoing: us}
    nop-interval: 2m
    lun-maps: [{initiator: "*", luns: [1, {as: 2, lun: 3}]}]
    params: {InitialR2T: No, MaxBurstLength: 65536}
    luns:
      - {lun: 1, volume: "mem:?size=1M", block-size: 4K, thin: off}
      - {lun: 3}
`)
	no := false
	want := spec.Document{
		Portals:  []spec.Portal{{Address: "192.0.2.1:3260"}, {Address: "[::1]:3261", Group: 2}},
		Accounts: []spec.Account{{Name: "alice", Secret: "123456789012"}, {Name: "us", Secret: "0x1234567890ab"}},
		Targets: []spec.Target{{
			Name: "iqn.2026-11.io.lunar:a",
			Access: []spec.Rule{{Address: "ALL"}, {Address: "192.0.2.7"}, {Address: "192.0.2.0/24"}, {Address: "2001:db8::1"}, {Address: "[2001:db8::]/32"},
				{Initiator: "iqn.2026-11.io.lunar:host"}, {Initiator: "iqn.*"}, {Initiator: "*"}, {Address: "10.0.0.0/8", ReadOnly: true}},
			Auth:        spec.Auth{Incoming: []string{"alice"}, Outgoing: "us"},
			NopInterval: 120,
			LUNMaps:     []spec.LUNMap{{Initiator: "*", LUNs: []spec.MappedLUN{{As: 1, LUN: 1}, {As: 2, LUN: 3}}}},
			Params:      map[string]string{"InitialR2T": "No", "MaxBurstLength": "65536"},
			LUNs:        []spec.LUN{{Number: 1, Volume: "mem:?size=1M", BlockSize: 4096, Thin: &no}, {Number: 3}},
		}},
	}
	if !reflect.DeepEqual(short.Document, want) {
		t.Errorf("got\n%+v\nwant\n%+v", short.Document, want)
	}
	if short.Has != Portals|Accounts|Targets || short.Keep != 0 || len(short.Warnings) != 0 {
		t.Errorf("has %b, keeps %b, warns %q", short.Has, short.Keep, short.Warnings)
	}
}

func TestAliases(t *testing.T) {
	f := load(t, `
targets:
  - name: iqn.2026-11.io.lunar:a
    access: &ours [192.0.2.0/24, &one "iqn.2026-11.io.lunar:host"]
    luns: &disks [{lun: 1, volume: "null:"}]
  - name: iqn.2026-11.io.lunar:b
    access: *ours
    luns: *disks
  - name: iqn.2026-11.io.lunar:c
    access: [*one]
`)
	if got := f.Document.Targets[1].Access; !reflect.DeepEqual(got, f.Document.Targets[0].Access) || len(got) != 2 {
		t.Errorf("access of b: %+v", got)
	}
	if got := f.Document.Targets[2].Access; len(got) != 1 || got[0].Initiator != "iqn.2026-11.io.lunar:host" {
		t.Errorf("access of c: %+v", got)
	}
}

func TestSecrets(t *testing.T) {
	dir := write(t, map[string]string{
		"inline.yaml":  "accounts: [{name: alice, secret: secretpass12}]\n",
		"file.yaml":    "accounts: [{name: alice, secret-file: alice.secret}]\n",
		"both.yaml":    "accounts: [{name: alice, secret: secretpass12, secret-file: alice.secret}]\n",
		"none.yaml":    "accounts: [{name: alice}]\n",
		"hidden.yaml":  "accounts: [{name: alice, secret: <hidden>}]\n",
		"alice.secret": "secretpass12\nwhat follows is not read\n",
	})
	chmod := func(name string, mode os.FileMode) {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name         string
		mode, secret os.FileMode
		want         string // of the error; empty: the secret is read
	}{
		{"inline.yaml", 0o600, 0o600, ""},
		{"inline.yaml", 0o640, 0o600, "others may read"},
		{"inline.yaml", 0o604, 0o600, "others may read"},
		{"file.yaml", 0o644, 0o600, ""},
		{"file.yaml", 0o644, 0o400, ""},
		{"file.yaml", 0o644, 0o644, "others may read"},
		{"both.yaml", 0o600, 0o600, "give one"},
		{"none.yaml", 0o600, 0o600, "it has no secret"},
		{"hidden.yaml", 0o600, 0o600, "left out"},
	} {
		chmod(c.name, c.mode)
		chmod("alice.secret", c.secret)
		f, err := Load(filepath.Join(dir, c.name), Options{})
		switch {
		case c.want == "" && (err != nil || f.Document.Accounts[0].Secret != "secretpass12"):
			t.Errorf("%s %o: %v", c.name, c.mode, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s %o: %v, want an error with %q", c.name, c.mode, err, c.want)
		case err != nil && strings.Contains(err.Error(), "secretpass12"):
			t.Errorf("%s: the error has the secret in it: %v", c.name, err)
		}
	}
}

func TestInclude(t *testing.T) {
	dir := write(t, map[string]string{
		"lunar.yaml":    "include: [conf.d/*.yaml]\nportals: [\"192.0.2.1:3260\"]\naccounts: [{name: alice, secret: secretpass12}]\ntargets:\n  - name: iqn.2026-11.io.lunar:a\n",
		"conf.d/1.yaml": "targets:\n  - name: iqn.2026-11.io.lunar:b\n    auth: {incoming: [alice]}\n",
		"conf.d/2.yaml": "targets:\n  - name: iqn.2026-11.io.lunar:c\naccounts: [{name: bob, secret: secretpass34}]\n",
	})
	path := filepath.Join(dir, "lunar.yaml")
	f, err := Load(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, x := range f.Document.Targets {
		names = append(names, x.Name[len("iqn.2026-11.io.lunar:"):])
	}
	if got := strings.Join(names, ""); got != "abc" || len(f.Document.Accounts) != 2 {
		t.Errorf("targets %q, %d accounts", got, len(f.Document.Accounts))
	}
	for name, c := range map[string]struct{ text, want string }{
		"target": {"targets:\n  - name: IQN.2026-11.io.lunar:B\n", "3.yaml:2:"},
		"where":  {"targets:\n  - name: iqn.2026-11.io.lunar:b\n", "conf.d/1.yaml:2"},
		"again":  {"include: [x.yaml]\n", "cannot include"},
		"keep":   {"keep: true\n", "first file"},
		"auth":   {"targets:\n  - name: iqn.2026-11.io.lunar:d\n    auth:\n      incoming: [nobody]\n", "conf.d/3.yaml:4:"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(dir, "conf.d/3.yaml"), []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(path, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want an error with %q", err, c.want)
			}
		})
	}
}

// What a file of a few bytes could make of memory and time is bounded.
func TestBounds(t *testing.T) {
	var bomb strings.Builder
	bomb.WriteString("targets:\n- name: iqn.2026-11.io.lunar:a\n  luns: &l\n")
	for i := range 2000 {
		fmt.Fprintf(&bomb, "  - {lun: %d}\n", i)
	}
	for i := range 1000 {
		fmt.Fprintf(&bomb, "- {name: iqn.2026-11.io.lunar:b%d, luns: *l}\n", i)
	}
	many := "targets: [{name: a, params: {" + strings.Repeat("k: v, ", 300) + "}}]"
	for name, c := range map[string]struct{ text, want string }{
		"aliases":        {bomb.String(), "counting what aliases stand for"},
		"self":           {"targets: &a [*a]\n", "not a list"},
		"flow":           {strings.Repeat("[", 100000), "nested more than"},
		"block sequence": {strings.Repeat("- ", 100000), "nested more than"},
		"block mapping":  {nest(2000), "nested more than"},
		"explicit keys":  {strings.Repeat("? ", 100000), "nested more than"},
		"anchors":        {strings.Repeat("&a ", 100000), "anchor or tag"},
		"directives":     {strings.Repeat("%", 100000), "directives"},
		"keys":           {many, "more than 256 keys"},
		"size":           {strings.Repeat("# comment\n", 1<<20), "more than"},
		"errors":         {strings.Repeat("- a\n", 1000), ""},
		"empty":          {"", "nothing in it"},
		"comment":        {"# only that\n", "nothing in it"},
		"null":           {"~", ""},
		"two documents":  {"targets: []\n---\ntargets: []\n", "second YAML document"},
		"not UTF-8":      {"targets: []\n# \xff\n", ":2:3: not UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := write(t, map[string]string{"x.yaml": c.text})
			_, err := Load(filepath.Join(dir, "x.yaml"), Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want an error with %q", err, c.want)
			}
			if n := strings.Count(err.Error(), "\n"); n >= maxErrors {
				t.Errorf("%d lines", n+1)
			}
		})
	}
	if _, err := Load("/dev/zero", Options{}); err == nil {
		t.Error("a device was read")
	}
}

func nest(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

// What Marshal writes, Load reads as the same document, whatever stands in it.
func TestRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	path := filepath.Join(dir, "x.yaml")
	for i := range 500 {
		want := randomDocument(rnd)
		if err := want.Check(); err != nil {
			t.Fatalf("document %d: %v", i, err)
		}
		text, err := Marshal(&want, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Load(path, Options{})
		if err != nil {
			t.Fatalf("document %d: %v\n%s", i, err, text)
		}
		got := f.Document
		if !reflect.DeepEqual(normal(got), normal(want)) {
			t.Fatalf("document %d:\n%s\nis read as\n%+v\nwas\n%+v", i, text, got, want)
		}
		if f.Has != System|Portals|Accounts|Discovery|Targets {
			t.Fatalf("document %d: not every section is there: %b", i, f.Has)
		}
		hidden, err := Marshal(&want, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range want.Accounts {
			if len(a.Secret) > 8 && strings.Contains(string(hidden), a.Secret) {
				t.Fatalf("document %d: a secret is shown:\n%s", i, hidden)
			}
		}
	}
}

// normal makes lists with nothing in them nil.
func normal(d spec.Document) spec.Document {
	d = d.Clone()
	if len(d.Targets) == 0 {
		d.Targets = nil
	}
	for i := range d.Targets {
		if len(d.Targets[i].LUNs) == 0 {
			d.Targets[i].LUNs = nil
		}
	}
	return d
}

func TestExample(t *testing.T) {
	data, err := os.ReadFile("../../docs/lunar.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := write(t, map[string]string{"lunar.yaml": string(data), "alice.secret": "secretpass12\n", "lunar.secret": "outpass567890\n"})
	f, err := Load(filepath.Join(dir, "lunar.yaml"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Document.Targets) < 2 || len(f.Warnings) != 0 {
		t.Errorf("%d targets, warnings %q", len(f.Document.Targets), f.Warnings)
	}
	// Every key that a file may have is shown in it, or at least named.
	for _, k := range Keys() {
		name := k.Path[strings.LastIndexByte(k.Path, '.')+1:]
		if !strings.Contains(string(data), strings.TrimSuffix(name, "[]")+":") {
			t.Errorf("the example does not show %s", k.Path)
		}
	}
}
