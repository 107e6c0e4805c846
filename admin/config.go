package admin

import (
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/target"
)

// Config is what a Manager is made with. A zero field is its default.
type Config struct {
	// Target is the configuration of the server that New makes.
	Target target.Config
	// Registry has the drivers of volumes.
	Registry *backstore.Registry
	// State saves what is set; nil: it ends with the daemon.
	State State
	// Log takes what administrators should know; nil drops it.
	Log target.Logger
	// Audit takes a line for each change that somebody asked for: a text and pairs of a name and a value. Nil drops it.
	Audit func(msg string, kv ...any)
	// Wrap stands between a volume and its disk, for traces; nil: nothing does.
	Wrap func(target string, lun uint16, st backstore.Store) backstore.Store
	// SetDebug makes the log tell more, or no longer; nil: it cannot.
	SetDebug func(on bool)
	// Shutdown asks the daemon to end as SIGTERM does. It does not wait for that. Nil: Shutdown is Unsupported.
	Shutdown func()
	Version  string

	CallTimeout  time.Duration // a change takes so long at most, its wait for a turn included
	OpenTimeout  time.Duration // one volume may take so long to open; at the start, where each is opened, too
	CloseTimeout time.Duration // what a change leaves to be closed is waited for so long
	RetryVolumes time.Duration // before a volume that could not be opened is tried again, and each time twice that; negative: it is not
	RetryMost    time.Duration // the longest such pause
	MaxOpening   int           // volumes that are opened beside each other, at the start and when they are tried again
	MaxWaiting   int           // changes of one target that wait for their turn
	MaxTargets   int           // targets
	MaxLUNs      int           // LUNs of one target
	MaxAccounts  int           // accounts
	MaxPortals   int           // portals
	MaxWatchers  int           // Watch calls at once
	MaxEvents    int           // events that wait for one who watches

	VolumeTimeout time.Duration // one operation on a volume (a clone, a flattening) may take so long, if its caller waits so long
	UndoTimeout   time.Duration // one that was cancelled is waited for so long, while it undoes what it has begun
	MaxVolumeWork int           // operations on volumes at once
}

// The defaults of Config.
const (
	DefaultCallTimeout  = time.Minute
	DefaultOpenTimeout  = 20 * time.Second
	DefaultCloseTimeout = 10 * time.Second
	DefaultRetryVolumes = 2 * time.Second
	DefaultRetryMost    = time.Minute
	DefaultMaxOpening   = 16
	DefaultMaxWaiting   = 256
	DefaultMaxTargets   = 16384
	DefaultMaxLUNs      = 4096
	DefaultMaxAccounts  = 16384
	DefaultMaxPortals   = 1024
	DefaultMaxWatchers  = 64
	DefaultMaxEvents    = 1024

	DefaultVolumeTimeout = 24 * time.Hour
	DefaultUndoTimeout   = 30 * time.Second
	DefaultMaxVolumeWork = 16
)

type discard struct{}

func (discard) Debug(string, ...any) {}
func (discard) Info(string, ...any)  {}
func (discard) Warn(string, ...any)  {}

func (c Config) withDefaults() Config {
	if c.Registry == nil {
		c.Registry = backstore.NewRegistry()
	}
	if c.Log == nil {
		c.Log = discard{}
	}
	if c.Audit == nil {
		c.Audit = func(string, ...any) {}
	}
	if c.SetDebug == nil {
		c.SetDebug = func(bool) {}
	}
	for _, d := range []struct {
		p   *time.Duration
		def time.Duration
	}{{&c.CallTimeout, DefaultCallTimeout}, {&c.OpenTimeout, DefaultOpenTimeout}, {&c.CloseTimeout, DefaultCloseTimeout}, {&c.RetryVolumes, DefaultRetryVolumes},
		{&c.VolumeTimeout, DefaultVolumeTimeout}, {&c.UndoTimeout, DefaultUndoTimeout}, {&c.RetryMost, DefaultRetryMost}} {
		if *d.p == 0 {
			*d.p = d.def
		}
	}
	for _, i := range []struct {
		p   *int
		def int
	}{{&c.MaxWaiting, DefaultMaxWaiting}, {&c.MaxOpening, DefaultMaxOpening}, {&c.MaxTargets, DefaultMaxTargets}, {&c.MaxLUNs, DefaultMaxLUNs}, {&c.MaxAccounts, DefaultMaxAccounts},
		{&c.MaxPortals, DefaultMaxPortals}, {&c.MaxWatchers, DefaultMaxWatchers}, {&c.MaxEvents, DefaultMaxEvents}, {&c.MaxVolumeWork, DefaultMaxVolumeWork}} {
		if *i.p == 0 {
			*i.p = i.def
		}
	}
	return c
}
