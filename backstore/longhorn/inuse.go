package longhorn

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// connections counts who is connected to the volume's socket, as the kernel lists it: /proc/net/unix has, for each end that was accepted, the path
// that its listener was bound to. An engine in a mount namespace of its own has bound it where Longhorn does.
func (c *config) connections() (n int) {
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return 0 // not told
	}
	defer func() { _ = f.Close() }() // read-only
	for sc := bufio.NewScanner(f); sc.Scan(); {
		n += connected(sc.Text(), c.socket, filepath.Join(socketDir, "longhorn-"+c.volume+".sock"))
	}
	return n
}

// connected is 1 for a line of the list that is an accepted connection (state 03) of one of the paths.
func connected(line string, paths ...string) int {
	// Num RefCount Protocol Flags Type St Inode Path
	f := strings.Fields(line)
	if len(f) < 8 || f[5] != "03" {
		return 0
	}
	for _, p := range paths {
		if f[7] == p {
			return 1
		}
	}
	return 0
}

// inUse says who is connected, for people.
func (c *config) inUse() string {
	n := c.connections()
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d connections to its engine", n)
}

// unused waits a little for connections that have just been closed, and is an error if there are some.
func (c *config) unused(ctx context.Context, op string) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	tick := time.NewTicker(statusPoll / 10)
	defer tick.Stop()
	for {
		n := c.connections()
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return opError(op, backstore.ClassBusy, "%s is in use: %d connections to its engine", c.shown(), n)
		case <-tick.C:
		}
	}
}
