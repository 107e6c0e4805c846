package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/lunar-iscsi/lunar/session/login"
)

// readAuth reads a file of CHAP accounts: lines "in NAME SECRET" and at most one "out NAME SECRET"; blank lines and those that
// begin with # do not count. A file that others may read is refused, and one that gives both directions one secret. warn is told
// of secrets that are short.
func readAuth(path string, warn func(msg string, kv ...any)) (login.Auth, error) {
	var a login.Auth
	f, err := os.Open(path)
	if err != nil {
		return a, fmt.Errorf("--auth: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return a, fmt.Errorf("--auth: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return a, fmt.Errorf("--auth %s: others may read it (mode %04o); it must be 0600", path, st.Mode().Perm())
	}
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		fields := strings.Fields(sc.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 3 || fields[0] != "in" && fields[0] != "out" {
			return login.Auth{}, fmt.Errorf("--auth %s line %d: want \"in NAME SECRET\" or \"out NAME SECRET\"", path, n)
		}
		acc := login.Account{Name: fields[1], Secret: []byte(fields[2])}
		if fields[0] == "in" {
			a.Incoming = append(a.Incoming, acc)
			continue
		}
		if a.Outgoing != nil {
			return login.Auth{}, fmt.Errorf("--auth %s line %d: a second \"out\" account", path, n)
		}
		a.Outgoing = &acc
	}
	if err := sc.Err(); err != nil {
		return login.Auth{}, fmt.Errorf("--auth %s: %w", path, err)
	}
	if len(a.Incoming) == 0 {
		return login.Auth{}, fmt.Errorf("--auth %s: no \"in\" account, so nobody would be asked for a password", path)
	}
	for _, acc := range a.Incoming {
		if a.Outgoing != nil && bytes.Equal(acc.Secret, a.Outgoing.Secret) {
			// RFC 7143 §9.2.1: one secret for both directions proves nothing, and every login would be refused.
			return login.Auth{}, fmt.Errorf("--auth %s: \"in %s\" and \"out %s\" have the same secret; give each its own", path, acc.Name, a.Outgoing.Name)
		}
		if len(acc.Secret) < shortSecret {
			warn("the CHAP secret of an account is short: it can be guessed from what is heard on the network, and Windows takes no less than 12 characters", "account", acc.Name)
		}
	}
	return a, nil
}

// shortSecret is in bytes the least that RFC 7143 §9.2.1 wants a secret to have without IPsec.
const shortSecret = 12
