package conv

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lunar-iscsi/lunar/admin"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

// kinds are the kinds of event.
var kinds = map[admin.EventKind]api.EventKind{
	admin.TargetAdded: api.EventKind_EVENT_KIND_TARGET_ADDED, admin.TargetChanged: api.EventKind_EVENT_KIND_TARGET_CHANGED,
	admin.TargetRemoved: api.EventKind_EVENT_KIND_TARGET_REMOVED, admin.LUNAdded: api.EventKind_EVENT_KIND_LUN_ADDED,
	admin.LUNChanged: api.EventKind_EVENT_KIND_LUN_CHANGED, admin.LUNRemoved: api.EventKind_EVENT_KIND_LUN_REMOVED,
	admin.LUNResized: api.EventKind_EVENT_KIND_LUN_RESIZED, admin.AccountAdded: api.EventKind_EVENT_KIND_ACCOUNT_ADDED,
	admin.AccountChanged: api.EventKind_EVENT_KIND_ACCOUNT_CHANGED, admin.AccountRemoved: api.EventKind_EVENT_KIND_ACCOUNT_REMOVED,
	admin.PortalAdded: api.EventKind_EVENT_KIND_PORTAL_ADDED, admin.PortalRemoved: api.EventKind_EVENT_KIND_PORTAL_REMOVED,
	admin.SystemChanged: api.EventKind_EVENT_KIND_SYSTEM_CHANGED, admin.SessionLogin: api.EventKind_EVENT_KIND_SESSION_LOGIN,
	admin.SessionLogout: api.EventKind_EVENT_KIND_SESSION_LOGOUT, admin.LoginFailed: api.EventKind_EVENT_KIND_LOGIN_FAILED,
	admin.EventsLost: api.EventKind_EVENT_KIND_EVENTS_LOST,

	admin.VolumeCreated: api.EventKind_EVENT_KIND_VOLUME_CREATED, admin.VolumeResized: api.EventKind_EVENT_KIND_VOLUME_RESIZED,
	admin.VolumeDeleted: api.EventKind_EVENT_KIND_VOLUME_DELETED, admin.VolumeRestored: api.EventKind_EVENT_KIND_VOLUME_RESTORED,
	admin.VolumePurged: api.EventKind_EVENT_KIND_VOLUME_PURGED, admin.VolumeRolledBack: api.EventKind_EVENT_KIND_VOLUME_ROLLED_BACK,
	admin.VolumeCloned: api.EventKind_EVENT_KIND_VOLUME_CLONED, admin.VolumeFlattened: api.EventKind_EVENT_KIND_VOLUME_FLATTENED,
	admin.SnapshotCreated: api.EventKind_EVENT_KIND_SNAPSHOT_CREATED, admin.SnapshotDeleted: api.EventKind_EVENT_KIND_SNAPSHOT_DELETED,
}

// FromKind makes an enum value; EVENT_KIND_UNSPECIFIED of a kind without a number.
func FromKind(k admin.EventKind) api.EventKind { return kinds[k] }

// ToKind makes a word; empty of a number without one.
func ToKind(k api.EventKind) admin.EventKind {
	for word, number := range kinds {
		if number == k {
			return word
		}
	}
	return ""
}

// FromEvent makes a message.
func FromEvent(e *admin.Event) *api.Event {
	m := &api.Event{Time: timestamppb.New(e.Time), Kind: FromKind(e.Kind), Target: text(e.Target), Peer: text(e.Peer), Detail: text(e.Detail), Caller: text(e.Caller)}
	if e.LUN >= 0 {
		n := uint32(e.LUN)
		m.Lun = &n
	}
	return m
}

// FromSteps makes messages.
func FromSteps(steps []admin.Step) []*api.Step {
	verbs := map[string]api.Verb{"add": api.Verb_VERB_ADD, "change": api.Verb_VERB_CHANGE, "remove": api.Verb_VERB_REMOVE}
	var out []*api.Step
	for _, s := range steps {
		out = append(out, &api.Step{Verb: verbs[s.Verb], What: text(s.What), Detail: text(s.Detail), Done: s.Done})
	}
	return out
}
