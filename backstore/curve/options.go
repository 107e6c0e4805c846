package curve

import (
	"fmt"
	"strconv"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Limits.
const (
	maxInFlight = 4096 // the option inflight
	maxSocket   = 107  // bytes of a unix socket's path
	// maxTransfer is the most of one Read or Write. nebd-server ends a connection on which a frame of more than 64 MiB comes; it cuts what it gets into pieces
	// of 64 KiB, so nothing is gained by more.
	maxTransfer = 4 << 20

	minBlock = 512
	maxBlock = 64 << 10
	oldBlock = 4096 // of a server that does not tell
)

// Defaults and time limits.
const (
	defaultSocket   = "/data/nebd/nebd.sock"
	defaultLockDir  = "/data/nebd/lock"
	defaultInFlight = 256

	// What libnebd does: 50 attempts, 100 ms apart.
	openPatience = 5 * time.Second // to reach the server when a volume is opened
	retryPause   = 100 * time.Millisecond
	minPause     = retryPause / 10        // between attempts to reconnect; doubled up to
	maxPause     = 250 * time.Millisecond // one is a connect to a unix socket, and what it finds late every command waits for

	callTime  = 30 * time.Second // for one call of administration to be answered
	closeTime = 5 * time.Second  // for the descriptor to be closed

	heartbeatTime   = 5 * time.Second // between heartbeats; the server closes what has had none for 30 s
	heartbeatAnswer = 500 * time.Millisecond
)

// A config is what a URI says.
type config struct {
	name
	socket   string
	lockDir  string
	readOnly bool
	shared   bool
	discard  bool
	inFlight int
	offline  time.Duration // 0: never

	heartbeat time.Duration // heartbeatTime, less in tests
	patience  time.Duration // openPatience, less in tests
}

func badURI(u *backstore.URI, err error) error {
	return &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: fmt.Errorf("%s: %w", u.Shown(), err)}
}

// options are those that a URI may have: parse reads them, but for those of the administration of volumes (place.go).
var options = []string{"socket", "lockdir", "mds", "snapshot", "passwordfile", "inflight", "offline_after", "readonly", "shared", "discard"}

func parse(u *backstore.URI, o backstore.Options) (*config, error) {
	c := &config{socket: defaultSocket, lockDir: defaultLockDir, inFlight: defaultInFlight, heartbeat: heartbeatTime, patience: openPatience}
	var err error
	if u.Host != "" {
		return nil, badURI(u, errName)
	}
	if c.name, err = parseName(u.Path); err != nil {
		return nil, badURI(u, err)
	}
	if v, ok := u.Option("socket"); ok {
		c.socket = v
	}
	if c.socket == "" || len(c.socket) > maxSocket {
		return nil, badURI(u, fmt.Errorf("option socket: want the path of nebd-server's socket, of at most %d bytes", maxSocket))
	}
	if v, ok := u.Option("lockdir"); ok {
		c.lockDir = v
	}
	if c.lockDir == "" {
		return nil, badURI(u, fmt.Errorf("option lockdir: want the folder of the locks that all clients of this nebd-server share (metacache.fileLockPath of nebd-client.conf)"))
	}
	for _, b := range []struct {
		name string
		to   *bool
	}{{"readonly", &c.readOnly}, {"shared", &c.shared}, {"discard", &c.discard}} {
		if *b.to, err = u.Bool(b.name, false); err != nil {
			return nil, badURI(u, err)
		}
	}
	c.readOnly = c.readOnly || o.ReadOnly
	if c.discard && c.shared {
		return nil, badURI(u, fmt.Errorf("discard=on is not for a volume that others write too: what they write to a segment that was discarded here is lost when it is given back, a minute later"))
	}
	if v, ok := u.Option("inflight"); ok {
		if c.inFlight, err = strconv.Atoi(v); err != nil || c.inFlight < 1 || c.inFlight > maxInFlight {
			return nil, badURI(u, fmt.Errorf("option inflight=%s: want 1 to %d", v, maxInFlight))
		}
	}
	if v, ok := u.Option("offline_after"); ok {
		if secs, err := strconv.Atoi(v); err == nil {
			c.offline = time.Duration(secs) * time.Second
		} else if c.offline, err = time.ParseDuration(v); err != nil {
			return nil, badURI(u, fmt.Errorf("option offline_after=%s: want seconds, or a number with a unit (90s, 2m); 0 is never", v))
		}
		if c.offline < 0 {
			return nil, badURI(u, fmt.Errorf("option offline_after=%s: want 0 or more", v))
		}
	}
	return c, nil
}
