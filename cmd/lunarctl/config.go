package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	"github.com/lunar-iscsi/lunar/admin/api/conv"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/config"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

func newConfig(c *cli) *cobra.Command {
	return group("config", "Show, compare and apply everything at once",
		`The daemon's settings as one document: lunar's own file (docs/config.md), or tgt's targets.conf. Applying one changes only what differs,
and touches no session of what does not.`,
		`  lunarctl config show > lunar.yaml
  lunarctl config diff lunar.yaml
  lunarctl config apply lunar.yaml`,
		c.configShow(), c.configDiff(), c.configApply(), c.configImport())
}

func (c *cli) configShow() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Write all that is set as a configuration file", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: "Writes all that is set as a configuration file (YAML). Secrets are left out: before the file can be applied, each has to be given, or the accounts taken out of it.",
		Example: `  lunarctl config show
  lunarctl config show --json | jq '.targets[].name'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				m, have, err := d.document(ctx)
				if err != nil {
					return err
				}
				return c.show(cmd, m, func(w io.Writer) error {
					b, err := config.Marshal(have, false)
					if err != nil {
						return err
					}
					_, err = w.Write(b)
					return err
				})
			})
		},
	}
}

// document gets all that is set, without secrets, as a message and in words.
func (d *daemon) document(ctx context.Context) (*api.Document, *spec.Document, error) {
	r, err := d.config.GetDocument(ctx, &api.GetDocumentRequest{})
	if err != nil {
		return nil, nil, err
	}
	have, err := conv.ToDocument(r.GetDocument())
	if err != nil {
		return nil, nil, failed(fmt.Errorf("what the daemon has set: %w", err))
	}
	return r.GetDocument(), &have, nil
}

// A reader of a file: lunar's own, or targets.conf.
type reader func(path string) (*config.File, error)

func readLunar(path string) (*config.File, error) { return config.Load(path, config.Options{}) }

// readFile reads a file, and tells of its warnings. A file that is wrong is like a command line that is.
func readFile(cmd *cobra.Command, read reader, path string) (*config.File, error) {
	f, err := read(path)
	if err != nil {
		return nil, &failure{error: err, status: exitUsage}
	}
	for _, w := range f.Warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning:", printable(w))
	}
	return f, nil
}

// An application is what of a file is applied, and how.
type application struct{ dryRun, force bool }

// apply makes what is set equal to a file, or says what would be done.
func (c *cli) apply(cmd *cobra.Command, f *config.File, a application) ([]*api.Step, error) {
	var steps []*api.Step
	err := c.call(cmd, func(ctx context.Context, d *daemon) error {
		_, have, err := d.document(ctx)
		if err != nil {
			return err
		}
		want := f.Over(have)
		m := conv.FromDocument(&want)
		for i, account := range want.Accounts {
			// Accounts that the file does not have are there without a secret: the daemon keeps what it has.
			m.Accounts[i] = conv.FromAccountWithSecret(account)
		}
		var done atomic.Int64
		stop := c.follow(ctx, cmd, d, &done)
		defer stop()
		return c.watch(cmd, "applying", func() string { return fmt.Sprintf("%d changes made", done.Load()) }, func() error {
			r, err := d.config.ApplyDocument(ctx, &api.ApplyDocumentRequest{Document: m, DryRun: a.dryRun, Force: a.force})
			if err != nil {
				steps = progressOf(err)
				return err
			}
			steps = r.GetSteps()
			return nil
		})
	})
	return steps, err
}

// progressOf is what an ApplyDocument that failed had done.
func progressOf(err error) []*api.Step {
	for _, d := range status.Convert(err).Details() {
		if p, ok := d.(*api.ApplyProgress); ok {
			return p.GetSteps()
		}
	}
	return nil
}

func (c *cli) writeSteps(cmd *cobra.Command, steps []*api.Step) error {
	return c.show(cmd, steps, func(w io.Writer) error {
		sign := map[api.Verb]string{api.Verb_VERB_ADD: "+", api.Verb_VERB_CHANGE: "~", api.Verb_VERB_REMOVE: "-"}
		for _, s := range steps {
			line := sign[s.GetVerb()] + " " + s.GetWhat()
			if s.GetDetail() != "" {
				line += ": " + s.GetDetail()
			}
			if _, err := fmt.Fprintln(w, printable(line)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *cli) configDiff() *cobra.Command {
	var exitCode bool
	cmd := &cobra.Command{
		Use: "diff FILE", Short: "Show what applying a configuration file would change", Args: cobra.ExactArgs(1), ValidArgsFunction: yamlFiles,
		Long: "Shows what \"lunarctl config apply\" would do: + what is made, ~ what is changed, - what is removed. Nothing is changed, and no secret is shown.",
		Example: `  lunarctl config diff /etc/lunar/lunar.yaml
  lunarctl config diff lunar.yaml --exit-code || echo 'something differs'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := readFile(cmd, readLunar, args[0])
			if err != nil {
				return err
			}
			steps, err := c.apply(cmd, f, application{dryRun: true})
			if err != nil {
				return err
			}
			if err := c.writeSteps(cmd, steps); err != nil {
				return err
			}
			if len(steps) == 0 {
				note(cmd, "nothing differs")
			} else if exitCode {
				return failed(fmt.Errorf("%d things differ", len(steps)))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 1 where something differs")
	return cmd
}

func yamlFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
}

func (c *cli) addApplication(cmd *cobra.Command, a *application) {
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.BoolVar(&a.dryRun, "dry-run", false, "change nothing, and show what would be done")
	fs.BoolVar(&a.force, "force", false, "may end sessions, replace volumes that initiators know, and shrink")
}

// carryOut applies, and tells of it.
func (c *cli) carryOut(cmd *cobra.Command, f *config.File, a application) error {
	if !cmd.Flags().Changed("timeout") {
		c.timeout = applyTimeout
	}
	steps, err := c.apply(cmd, f, a)
	if err != nil {
		var fail *failure
		if errors.As(err, &fail) && slices.ContainsFunc(steps, func(s *api.Step) bool { return s.GetDone() }) {
			fail.hint = strings.TrimPrefix(fail.hint+"; what is listed was done: apply again to go on from there", "; ")
			steps = slices.DeleteFunc(steps, func(s *api.Step) bool { return !s.GetDone() })
			if werr := c.writeSteps(cmd, steps); werr != nil {
				return werr
			}
		}
		return err
	}
	if err := c.writeSteps(cmd, steps); err != nil {
		return err
	}
	switch {
	case len(steps) == 0:
		note(cmd, "nothing differs")
	case a.dryRun:
		note(cmd, "nothing was changed")
	}
	return nil
}

func (c *cli) configApply() *cobra.Command {
	var a application
	cmd := &cobra.Command{
		Use: "apply FILE", Short: "Make what is set equal to a configuration file", Args: cobra.ExactArgs(1), ValidArgsFunction: yamlFiles,
		Long: `Makes what is set equal to a configuration file: only what differs is changed. Sections that the file does not have are left alone.

Each target that differs is one step. The first that fails ends the command; what was done before stays done, and applying again goes on
from there.`,
		Example: `  lunarctl config apply /etc/lunar/lunar.yaml --dry-run
  lunarctl config apply /etc/lunar/lunar.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := readFile(cmd, readLunar, args[0])
			if err != nil {
				return err
			}
			return c.carryOut(cmd, f, a)
		},
	}
	c.addApplication(cmd, &a)
	return cmd
}

func (c *cli) configImport() *cobra.Command {
	var a application
	var admitAll, printIt bool
	cmd := &cobra.Command{
		Use: "import TARGETS.CONF", Short: "Take over tgt's targets.conf", Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"conf"}, cobra.ShellCompDirectiveFilterFileExt
		},
		Long: `Reads a targets.conf as tgt-admin does, and makes the daemon's targets equal to it; accounts that it does not have are left alone. The disks keep
the names that tgt gave them.

A target with initiator-name and no initiator-address is open to everybody with tgt-admin. Here the names decide, unless
--names-admit-all says otherwise; a warning tells of each such target.`,
		Example: `  lunarctl config import /etc/tgt/targets.conf --dry-run
  lunarctl config import /etc/tgt/targets.conf
  # as a file of lunar's own, to keep from then on; it has the secrets
  umask 077; lunarctl config import /etc/tgt/targets.conf --print > lunar.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := readFile(cmd, func(path string) (*config.File, error) {
				return config.LoadTargetsConf(path, config.TargetsConfOptions{NamesAdmitAll: admitAll})
			}, args[0])
			if err != nil {
				return err
			}
			if !printIt {
				if len(f.Document.Targets) == 0 && !a.force && !a.dryRun {
					// tgt-admin reads any text as one: a wrong name on the command line must not take everything away.
					return &failure{fmt.Errorf("%s: there is no target in it; every target that there is would be removed", args[0]), exitUsage, "if that is meant: --force"}
				}
				return c.carryOut(cmd, f, a)
			}
			b, err := f.Marshal(true)
			if err == nil {
				_, err = cmd.OutOrStdout().Write(b)
			}
			if err != nil {
				return failed(err)
			}
			return nil
		},
	}
	c.addApplication(cmd, &a)
	cmd.Flags().BoolVar(&admitAll, "names-admit-all", false, "open targets that have names and no addresses to everybody, as tgt-admin does")
	cmd.Flags().BoolVar(&printIt, "print", false, "write it as a configuration file of lunar's, secrets included, and ask no daemon")
	cmd.MarkFlagsMutuallyExclusive("print", "dry-run")
	return cmd
}
