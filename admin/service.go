package admin

import (
	"context"
	"net/netip"
	"time"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
)

// A Ref names a target: by its name (compared normalised) or, where Name is empty, by its TID.
type Ref struct {
	Name string
	TID  int
}

// A TargetState is a target as it is now: what was set, and what is live. It shares nothing with the service.
type TargetState struct {
	Spec   spec.Target
	Live   target.Info
	Faults map[uint16]string // LUNs whose volume could not be opened, and why; nil: none
}

// SystemState is the daemon as it is now.
type SystemState struct {
	Spec      spec.System
	Version   string
	Started   time.Time
	StateFile string // where what is set is saved; empty: nowhere
	Stats     target.Stats
	Portals   []PortalState
}

// A PortalState is a portal with what it is bound to: the port that port 0 has become.
type PortalState struct {
	Spec  spec.Portal
	Bound netip.AddrPort // not valid: it was saved, and could not be bound at the start
}

// A DriverInfo is one kind of volume that can be served.
type DriverInfo struct {
	Scheme, Help string
	Options      []string
	Absent       string   // why it is not built in, and what to do about it; empty: it is
	Traits       []string // what is true of every volume of it
	Can          []string // what can be done with its volumes besides serving them: "create", "snapshot", …
}

// Service is every administrative operation. Its methods may be called from any goroutine. A call that changes something waits for
// its turn on that target alone, within ctx; when it returns nil what it did is saved. Every error is an *Error.
//
// A change is told by an edit function, which gets a copy of what is there and returns it changed: only what differs is
// carried out. An edit that returns an error ends the call with it. It may be called more than once, and must not call the service.
type Service interface {
	// Document returns all that is set, with secrets; it shares nothing with the service.
	Document() spec.Document

	// Targets returns every target, ascending TID. Live is left out where live is false: then no loop is asked.
	Targets(live bool) []TargetState
	Target(ref Ref, live bool) (TargetState, error)
	// AddTarget makes a target with all that t names, LUNs included, and returns it with its TID.
	AddTarget(ctx context.Context, t spec.Target) (spec.Target, error)
	// EditTarget changes everything of a target but TID, Name and LUNs (an edit that changes these is Invalid).
	EditTarget(ctx context.Context, ref Ref, edit func(*spec.Target) error) error
	// RemoveTarget ends a target. With sessions there it is TargetInUse unless force; sessions that are already ending are waited
	// for. When it returns its volumes are closed.
	RemoveTarget(ctx context.Context, ref Ref, force bool) error
	// DrainTarget takes the target offline for new logins, asks its initiators to log out, and drops who has not by the end of ctx.
	DrainTarget(ctx context.Context, ref Ref) error

	// AddLUN opens the volume and puts it behind the number. The number of a volume that a live nexus has seen there
	// is LUNInUse for another one, unless force.
	AddLUN(ctx context.Context, ref Ref, l spec.LUN, force bool) (spec.LUN, error)
	// EditLUN changes what can be changed of a LUN while it is there. A new Volume wants Offline, before and after or on its way
	// from one to the other; BlockSize and Identity cannot change.
	EditLUN(ctx context.Context, ref Ref, lun uint16, edit func(*spec.LUN) error) error
	// RemoveLUN takes a LUN away; with commands under way it is LUNInUse unless force. When it returns its volume is closed.
	RemoveLUN(ctx context.Context, ref Ref, lun uint16, force bool) error
	// ResizeLUN makes the volume size bytes large; 0 takes over the size that it has by now. Smaller than before is WouldShrink
	// unless force. It returns the new size.
	ResizeLUN(ctx context.Context, ref Ref, lun uint16, size int64, force bool) (int64, error)

	// TakeOverLUN shuts out whoever else has the LUN's volume open: of a LUN that is there without its volume, or from which somebody else has taken it,
	// the volume is opened anew for that; of one that has it open the store is told to. Unsupported where the engine cannot promise that
	// nothing of theirs is applied any more.
	TakeOverLUN(ctx context.Context, ref Ref, lun uint16) error

	// Accounts: removing one that is bound unbinds it everywhere.
	AddAccount(ctx context.Context, a spec.Account) error
	SetSecret(ctx context.Context, name, secret string) error
	RemoveAccount(ctx context.Context, name string) error
	EditDiscovery(ctx context.Context, edit func(*spec.Auth) error) error

	Portals() []PortalState // in the order of their making
	AddPortal(ctx context.Context, p spec.Portal) (PortalState, error)
	RemovePortal(ctx context.Context, addr netip.AddrPort) error

	// CloseSession ends a session at once; CloseConnection one connection.
	CloseSession(ctx context.Context, ref Ref, tsih uint16) error
	CloseConnection(ctx context.Context, ref Ref, tsih, cid uint16) error

	System() SystemState
	EditSystem(ctx context.Context, edit func(*spec.System) error) error
	// Shutdown asks the daemon to end as SIGTERM does. With drain it refuses while targets are there (tgt's rule): TargetInUse.
	Shutdown(ctx context.Context, onlyIfEmpty bool) error
	Drivers() []DriverInfo

	VolumeService

	// Apply makes what is set equal to want, changing only what differs and touching no session of what does not. Each target
	// that differs is one step; the first that fails ends it, and is named. With dryRun nothing is changed. It returns the steps, those done or to do.
	Apply(ctx context.Context, want spec.Document, o ApplyOptions) ([]Step, error)

	// Watch calls for every event from now on, until ctx ends, on a channel of bounded length: whoever is too slow misses
	// some, which an event of kind EventsLost then says.
	Watch(ctx context.Context) <-chan Event
}

// ApplyOptions say how a document is applied.
type ApplyOptions struct {
	DryRun bool
	Force  bool // may end sessions, replace volumes that initiators see, and shrink
	// Away is what LUNs do that are new, and say nothing about it, with a volume that cannot be opened (spec.LUN.Away).
	Away string
	Keep bool // leaves targets, portals and accounts alone that the document does not have
}

// A Step is one change of Apply, for people and scripts.
type Step struct {
	Verb   string // add, change, remove
	What   string // "target iqn…", "target iqn… LUN 3", "portal …", "account …", "system"
	Detail string // what changes, field by field, never a secret
	Done   bool
}

// An Event is something that happened.
type Event struct {
	Time   time.Time
	Kind   EventKind
	Target string // name, or empty
	LUN    int    // -1: none
	Peer   string // initiator name and address, or empty
	Detail string
	Caller string // of changes: Caller.String
}

// An EventKind says what happened.
type EventKind string

// The kinds of event.
const (
	TargetAdded    EventKind = "target_added"
	TargetChanged  EventKind = "target_changed"
	TargetRemoved  EventKind = "target_removed"
	LUNAdded       EventKind = "lun_added"
	LUNChanged     EventKind = "lun_changed"
	LUNRemoved     EventKind = "lun_removed"
	LUNResized     EventKind = "lun_resized"
	AccountAdded   EventKind = "account_added"
	AccountChanged EventKind = "account_changed"
	AccountRemoved EventKind = "account_removed"
	PortalAdded    EventKind = "portal_added"
	PortalRemoved  EventKind = "portal_removed"
	SystemChanged  EventKind = "system_changed"
	SessionLogin   EventKind = "session_login"
	SessionLogout  EventKind = "session_logout" // Detail: how it ended, a drop reason or "logout"
	LoginFailed    EventKind = "login_failed"   // Detail: the reason
	EventsLost     EventKind = "events_lost"    // Detail: how many

	// Of volumes. Detail: which, without its options, and what of it.
	VolumeCreated    EventKind = "volume_created"
	VolumeResized    EventKind = "volume_resized" // of one that is no LUN: else LUNResized
	VolumeDeleted    EventKind = "volume_deleted"
	VolumeRestored   EventKind = "volume_restored"
	VolumePurged     EventKind = "volume_purged"
	VolumeRolledBack EventKind = "volume_rolled_back"
	VolumeCloned     EventKind = "volume_cloned"
	VolumeFlattened  EventKind = "volume_flattened"
	SnapshotCreated  EventKind = "snapshot_created"
	SnapshotDeleted  EventKind = "snapshot_deleted"
)
