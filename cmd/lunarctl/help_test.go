package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commands are all commands, root included.
func commands(c *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{c}
	for _, below := range c.Commands() {
		if below.Name() == "help" || below.Name() == "completion" {
			continue // cobra's own
		}
		out = append(out, commands(below)...)
	}
	return out
}

// TestEveryCommandExplainsItself: a summary, an example that would run, help for each flag, and names that are completed or said not to be.
func TestEveryCommandExplainsItself(t *testing.T) {
	root := newRoot()
	all := commands(root)
	if len(all) < 50 {
		t.Fatalf("%d commands", len(all))
	}
	for _, c := range all {
		path := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: its summary is %q", path, c.Short)
		}
		if c.Long == "" && len(c.Commands()) > 0 {
			t.Errorf("%s has no description", path)
		}
		if !strings.Contains(c.Example, "lunarctl ") {
			t.Errorf("%s has no example", path)
		}
		for _, line := range strings.Split(c.Example, "\n") {
			if line != "" && !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: example %q is not indented", path, line)
			}
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
				t.Errorf("%s --%s: its help is %q", path, f.Name, f.Usage)
			}
			if f.Name != "help" && c.Name() != "bench" && f.Value.Type() != "bool" && !f.Hidden && f.Name != "secret-file" {
				if _, ok := c.GetFlagCompletionFunc(f.Name); !ok {
					t.Errorf("%s --%s would complete names of files", path, f.Name)
				}
			}
		})
		if c.Name() != "bench" && !c.Hidden && len(c.Commands()) == 0 && c.ValidArgsFunction == nil {
			t.Errorf("%s would complete names of files", path)
		}
	}
}

// TestExamplesParse: every example is a command line that lunarctl takes: it exists, with these flags and so many arguments.
func TestExamplesParse(t *testing.T) {
	n := 0
	for _, c := range commands(newRoot()) {
		if c.Name() == "bench" {
			continue
		}
		for _, line := range strings.Split(strings.ReplaceAll(c.Example, "\\\n", " "), "\n") {
			for _, part := range regexp.MustCompile(`&&|\|\||[|;]`).Split(unquotedComment(line), -1) {
				words := shellWords(part)
				if len(words) == 0 || words[0] != "lunarctl" {
					continue
				}
				n++
				root := newRoot()
				cmd, rest, err := root.Find(words[1:])
				if err == nil {
					err = cmd.ParseFlags(rest)
				}
				if err == nil {
					err = cmd.ValidateArgs(cmd.Flags().Args())
				}
				if err != nil {
					t.Errorf("%s: %q: %v", c.CommandPath(), part, err)
				}
			}
		}
	}
	if n < 90 {
		t.Errorf("%d examples were found", n)
	}
}

// unquotedComment takes a comment off.
func unquotedComment(line string) string {
	if strings.HasPrefix(strings.TrimSpace(line), "#") {
		return ""
	}
	return line
}

// shellWords splits as a shell does, as far as examples go: blanks, quotes, and a redirection that ends them.
func shellWords(s string) (words []string) {
	var word strings.Builder
	in, quote := false, rune(0)
	for _, r := range s {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, in = r, true
		case r == '>':
			if in {
				words = append(words, word.String())
			}
			return words
		case r == ' ' || r == '\t':
			if in {
				words = append(words, word.String())
			}
			word.Reset()
			in = false
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if in {
		words = append(words, word.String())
	}
	return words
}

// TestManual: a page for each command, with its examples, and completions of three shells.
func TestManual(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("SOURCE_DATE_EPOCH", "0")
	if status := run(context.Background(), []string{"manual", dir}, strings.NewReader(""), os.Stdout, os.Stderr); status != 0 {
		t.Fatalf("it exits with %d", status)
	}
	for _, c := range commands(newRoot()) {
		if c.Hidden {
			continue
		}
		page, err := os.ReadFile(filepath.Join(dir, "man1", strings.ReplaceAll(c.CommandPath(), " ", "-")+".1"))
		if err != nil {
			t.Error(err)
		} else if !bytes.Contains(page, []byte(".SH EXAMPLE")) || !bytes.Contains(page, []byte("Jan 1970")) {
			t.Errorf("%s: its page has no example, or not the date that it was told", c.CommandPath())
		}
	}
	for _, name := range []string{"lunarctl", "_lunarctl", "lunarctl.fish"} {
		if b, err := os.ReadFile(filepath.Join(dir, "completions", name)); err != nil || !bytes.Contains(b, []byte("__complete")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
