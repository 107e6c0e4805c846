package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

func newAccount(c *cli) *cobra.Command {
	return group("account", "Keep the CHAP accounts, and bind them to targets",
		`An account is a CHAP name with a secret. Bound to a target as incoming, initiators have to prove that they know one of its accounts; bound
as outgoing, the target proves itself to them (mutual CHAP). No command takes a secret as an argument, where others could read it, and none shows one.`,
		`  lunarctl account add alice
  lunarctl account bind alice --target iqn.2026-11.io.lunar:disk`,
		c.accountList(), c.accountAdd(), c.accountSecret(), c.accountRemove(), c.accountBind(), c.accountUnbind())
}

func (c *cli) accountList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List accounts and where they are bound", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Example: `  lunarctl account list
  lunarctl account list --json | jq -r '.[].name'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.accounts.ListAccounts(ctx, &api.ListAccountsRequest{})
				if err != nil {
					return err
				}
				return c.show(cmd, r.GetAccounts(), func(w io.Writer) error {
					t := newTable(w, "NAME", "INCOMING", "OUTGOING")
					for _, a := range r.GetAccounts() {
						t.row(a.GetName(), boundTo(a.GetDiscoveryIncoming(), a.GetIncoming()), boundTo(a.GetDiscoveryOutgoing(), a.GetOutgoing()))
					}
					return t.end()
				})
			})
		},
	}
}

func boundTo(discovery bool, targets []string) string {
	if discovery {
		targets = append([]string{"discovery"}, targets...)
	}
	return strings.Join(targets, ",")
}

// secretHelp is how commands that want a secret get it.
const secretHelp = `The secret is the first line of --secret-file, or of standard input; on a terminal it is asked for, and not shown.`

// maxSecret bounds what is read: RFC 7143 wants secrets of at least 12 octets, and no initiator takes more than 255.
const maxSecret = 4096

// readSecret gets a secret for an account from a file, from a terminal, or from standard input.
func readSecret(cmd *cobra.Command, file, name string) (string, error) {
	if file != "" && file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("--secret-file: %w", err)
		}
		defer f.Close()
		return firstLine(f)
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if file == "-" || !ok || !isTerminal(in) {
		return firstLine(cmd.InOrStdin())
	}
	first, err := prompt(cmd, in, fmt.Sprintf("Secret of %s: ", printable(name)))
	if err != nil {
		return "", err
	}
	again, err := prompt(cmd, in, "The same again: ")
	if err != nil {
		return "", err
	}
	if first != again {
		return "", errors.New("the two are not the same; nothing was changed")
	}
	return first, nil
}

// firstLine reads a line, without its end.
func firstLine(r io.Reader) (string, error) {
	b, err := bufio.NewReader(io.LimitReader(r, maxSecret+1)).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading the secret: %w", err)
	}
	s := strings.TrimSuffix(string(bytes.TrimSuffix(b, []byte("\n"))), "\r")
	switch {
	case s == "":
		return "", errors.New("the secret is empty: it is read from --secret-file, or from standard input")
	case len(s) > maxSecret:
		return "", fmt.Errorf("the secret is longer than %d bytes", maxSecret)
	}
	return s, nil
}

// prompt reads a line from a terminal that does not show it. An interrupt ends it, and the terminal is as before.
func prompt(cmd *cobra.Command, in *os.File, text string) (string, error) {
	fd := int(in.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", err
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETSF, &quiet); err != nil {
		return "", err
	}
	defer func() {
		// The terminal is the shell's again afterwards.
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, old)
		fmt.Fprintln(cmd.ErrOrStderr())
	}()
	fmt.Fprint(cmd.ErrOrStderr(), text)
	type line struct {
		text string
		err  error
	}
	read := make(chan line, 1) // who reads a terminal cannot be told to stop: the end of the process ends it
	go func() {
		s, err := firstLine(in)
		read <- line{s, err}
	}()
	var interrupted <-chan struct{}
	if ctx := cmd.Context(); ctx != nil {
		interrupted = ctx.Done()
	}
	select {
	case l := <-read:
		return l.text, l.err
	case <-interrupted:
		return "", failed(errors.New("interrupted; nothing was changed"))
	}
}

func secretFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "secret-file", "", "`FILE` whose first line is the secret; - for standard input")
}

func (c *cli) accountAdd() *cobra.Command {
	var file string
	var allowExisting bool
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Make an account", Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: "Makes an account; it counts where it is bound (\"lunarctl account bind\").\n\n" + secretHelp,
		Example: `  lunarctl account add alice
  lunarctl account add bob --secret-file /root/bob.secret
  openssl rand -base64 18 | tee alice.secret | lunarctl account add alice`,
		RunE: func(cmd *cobra.Command, args []string) error {
			secret, err := readSecret(cmd, file, args[0])
			if err != nil {
				return err
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.accounts.AddAccount(ctx, &api.AddAccountRequest{Account: &api.Account{Name: args[0], Secret: secret}, AllowExisting: allowExisting})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "account %s %s", args[0], made(r.GetExisted()))
			})
		},
	}
	secretFlag(cmd, &file)
	cmd.Flags().BoolVar(&allowExisting, "allow-existing", false, "that it is there already, with this secret, is no error")
	return cmd
}

func (c *cli) accountSecret() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "set-secret NAME", Short: "Give an account another secret", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.accountNames),
		Long:    "Gives an account another secret, for logins from then on.\n\n" + secretHelp,
		Example: "  lunarctl account set-secret alice\n  lunarctl account set-secret alice --secret-file alice.secret",
		RunE: func(cmd *cobra.Command, args []string) error {
			secret, err := readSecret(cmd, file, args[0])
			if err != nil {
				return err
			}
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.accounts.SetSecret(ctx, &api.SetSecretRequest{Name: args[0], Secret: secret})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "account %s has a new secret", args[0])
			})
		},
	}
	secretFlag(cmd, &file)
	return cmd
}

// aloneAt are the places where an account is the only incoming one: without it they ask for no password.
func aloneAt(list []*api.AccountState, name string) []string {
	n := map[string]int{}
	var at []string
	for _, a := range list {
		in := a.GetIncoming()
		if a.GetDiscoveryIncoming() {
			in = append([]string{"discovery"}, in...)
		}
		for _, where := range in {
			n[where]++
		}
		if a.GetName() == name {
			at = in
		}
	}
	return slices.DeleteFunc(slices.Clone(at), func(where string) bool { return n[where] > 1 })
}

func (c *cli) accountRemove() *cobra.Command {
	var missingOK, force bool
	cmd := &cobra.Command{
		Use: "remove NAME", Aliases: []string{"rm", "delete"}, Short: "Remove an account", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.accountNames),
		Long: `Removes an account, and unbinds it everywhere. A target whose last incoming account it was would ask for no CHAP any more and let everybody in
whom its rules admit: that wants --force.`,
		Example: "  lunarctl account remove alice",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				if !force {
					r, err := d.accounts.ListAccounts(ctx, &api.ListAccountsRequest{})
					if err != nil {
						return err
					}
					if at := aloneAt(r.GetAccounts(), args[0]); len(at) > 0 {
						return &failure{fmt.Errorf("account %s is the only one that lets initiators in at %s: without it no password would be asked for", args[0], strings.Join(at, ", ")),
							exitRefused, "bind another one there first, or --force"}
					}
				}
				r, err := d.accounts.RemoveAccount(ctx, &api.RemoveAccountRequest{Name: args[0], MissingOk: missingOK})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "account %s %s", args[0], gone(r.GetMissing()))
			})
		},
	}
	cmd.Flags().BoolVar(&missingOK, "missing-ok", false, "that there is none is no error")
	cmd.Flags().BoolVar(&force, "force", false, "remove it also where no other account is left, and no password is asked for then")
	return cmd
}

// bindFlags say where an account is bound.
type bindFlags struct {
	target    string
	discovery bool
	outgoing  bool
}

func (f *bindFlags) add(c *cli, cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&f.target, "target", "", "the target")
	fs.BoolVar(&f.discovery, "discovery", false, "discovery, instead of a target")
	fs.BoolVar(&f.outgoing, "outgoing", false, "as what lunar proves itself with (mutual CHAP)")
	cmd.MarkFlagsMutuallyExclusive("target", "discovery")
	cmd.MarkFlagsOneRequired("target", "discovery")
	must(cmd.RegisterFlagCompletionFunc("target", c.completeFlag(c.targetNames)))
}

func (f *bindFlags) read() (*api.TargetRef, api.Direction, string) {
	d, as := api.Direction_DIRECTION_INCOMING, "incoming"
	if f.outgoing {
		d, as = api.Direction_DIRECTION_OUTGOING, "outgoing"
	}
	if f.discovery {
		return nil, d, as + " to discovery"
	}
	return ref(f.target), d, as + " to target " + f.target
}

func (c *cli) accountBind() *cobra.Command {
	var f bindFlags
	var allowExisting bool
	cmd := &cobra.Command{
		Use: "bind NAME", Short: "Let logins authenticate with an account", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.accountNames),
		Long: "Binds an account to a target, or to discovery. From the first incoming account on, who logs in has to authenticate.",
		Example: `  lunarctl account bind alice --target iqn.2026-11.io.lunar:disk
  lunarctl account bind lunar --target iqn.2026-11.io.lunar:disk --outgoing
  lunarctl account bind alice --discovery`,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, dir, where := f.read()
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.accounts.BindAccount(ctx, &api.BindAccountRequest{Name: args[0], Target: t, Direction: dir, AllowExisting: allowExisting})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "account %s is bound, %s", args[0], where)
			})
		},
	}
	f.add(c, cmd)
	cmd.Flags().BoolVar(&allowExisting, "allow-existing", false, "that it is bound there already is no error")
	return cmd
}

func (c *cli) accountUnbind() *cobra.Command {
	var f bindFlags
	var missingOK bool
	cmd := &cobra.Command{
		Use: "unbind NAME", Short: "Let logins authenticate with an account no longer", Args: cobra.ExactArgs(1), ValidArgsFunction: c.complete(c.accountNames),
		Long:    "Unbinds an account from a target, or from discovery. Where it was the last incoming one, CHAP is not asked for any more.",
		Example: "  lunarctl account unbind alice --target iqn.2026-11.io.lunar:disk",
		RunE: func(cmd *cobra.Command, args []string) error {
			t, dir, where := f.read()
			return c.call(cmd, func(ctx context.Context, d *daemon) error {
				r, err := d.accounts.UnbindAccount(ctx, &api.UnbindAccountRequest{Name: args[0], Target: t, Direction: dir, MissingOk: missingOK})
				if err != nil {
					return err
				}
				return c.did(cmd, r, "account %s is not bound any more, %s", args[0], where)
			})
		},
	}
	f.add(c, cmd)
	cmd.Flags().BoolVar(&missingOK, "missing-ok", false, "that it is not bound there is no error")
	return cmd
}
