package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newManual writes what is installed beside the command: `make man` runs it.
func newManual() *cobra.Command {
	return &cobra.Command{
		Use: "manual DIR", Short: "Write manual pages and completions", Hidden: true, Args: cobra.ExactArgs(1),
		Long:    "Writes a manual page for each command below DIR/man1, and completions for bash, zsh and fish below DIR/completions.",
		Example: "  lunarctl manual build",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := writeManual(cmd.Root(), args[0]); err != nil {
				return failed(err)
			}
			return nil
		},
	}
}

func writeManual(root *cobra.Command, dir string) error {
	man, completions := filepath.Join(dir, "man1"), filepath.Join(dir, "completions")
	for _, d := range []string{man, completions} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	// Without a date cobra takes SOURCE_DATE_EPOCH's, so that the same source can make the same pages, or else today's.
	head := &doc.GenManHeader{Section: "1", Source: "lunar " + version, Manual: "lunar"}
	root.DisableAutoGenTag = true
	if err := doc.GenManTree(root, head, man); err != nil {
		return fmt.Errorf("manual pages: %w", err)
	}
	for _, c := range []struct {
		name  string
		write func(string) error
	}{
		{"lunarctl", func(f string) error { return root.GenBashCompletionFileV2(f, true) }},
		{"_lunarctl", root.GenZshCompletionFile},
		{"lunarctl.fish", func(f string) error { return root.GenFishCompletionFile(f, true) }},
	} {
		if err := c.write(filepath.Join(completions, c.name)); err != nil {
			return fmt.Errorf("completions: %w", err)
		}
	}
	return nil
}
