package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A VolumeLUN is a LUN that a volume is set behind.
type VolumeLUN struct {
	Target  string
	TID     int
	LUN     uint16
	Offline bool
}

// A VolumeInfo is a volume as its engine lists it, with where it is served from here.
type VolumeInfo struct {
	backstore.Volume
	LUNs []VolumeLUN
}

// VolumeService administers volumes where they are kept, whether or not they are LUNs. Volumes are named by their URI, as LUNs name them; what a
// driver cannot is Unsupported. It changes nothing that is set, and nothing of it is saved.
//
// What takes long goes on until it is done, its caller goes away (Cancelled) or VolumeTimeout is over: then what was begun is undone, or the
// error says what is left. Progress may be nil; it is not called any more when the call has returned. What cannot be undone is
// WouldDestroy unless force.
//
// One thing at a time is done with a volume, but that any number of clones are made of it at once; the rest is VolumeBusy. A volume that is
// a LUN here is not deleted, and not rolled back unless that is offline: VolumeInUse. While either goes on no LUN can have it.
type VolumeService interface {
	// Volumes lists what is where uri points: a pool, a folder, a server.
	Volumes(ctx context.Context, uri string) ([]VolumeInfo, error)
	Volume(ctx context.Context, uri string) (VolumeInfo, error)
	// CreateVolume makes a volume that reads as zeroes; one that is there already is VolumeExists and stays as it is.
	CreateVolume(ctx context.Context, uri string, size int64, p backstore.Progress) (VolumeInfo, error)
	// ResizeVolume gives a volume another size, and returns it. That of a LUN is resized as ResizeLUN does. Smaller is WouldShrink unless force.
	ResizeVolume(ctx context.Context, uri string, size int64, force bool, p backstore.Progress) (int64, error)
	// DeleteVolume deletes a volume: into the trash where its driver has one, and purge does not say otherwise.
	DeleteVolume(ctx context.Context, uri string, purge, force bool, p backstore.Progress) error
	// Trash lists the deleted volumes that are where uri points. RestoreVolume brings one back, under the name that uri gives or else under its old
	// one, and returns its URI. PurgeVolume deletes one for ever.
	Trash(ctx context.Context, uri string) ([]backstore.TrashedVolume, error)
	RestoreVolume(ctx context.Context, uri, id string) (string, error)
	PurgeVolume(ctx context.Context, uri, id string, force bool, p backstore.Progress) error

	// CreateSnapshot takes a crash-consistent snapshot, under load or not.
	CreateSnapshot(ctx context.Context, uri, name string, p backstore.Progress) error
	Snapshots(ctx context.Context, uri string) ([]backstore.Snapshot, error)
	DeleteSnapshot(ctx context.Context, uri, name string, p backstore.Progress) error
	// RollbackVolume gives a volume the contents that it had at a snapshot. From a LUN that is offline it is taken meanwhile.
	RollbackVolume(ctx context.Context, uri, name string, force bool, p backstore.Progress) error

	// CloneVolume makes the volume to of what uri was at a snapshot; empty: of what it is now, where its driver can.
	CloneVolume(ctx context.Context, uri, snapshot, to string, p backstore.Progress) (VolumeInfo, error)
	// FlattenVolume ends a clone's dependence on its parent.
	FlattenVolume(ctx context.Context, uri string, p backstore.Progress) error
}

// MaxVolumeName bounds the name of a snapshot and the id of a deleted volume, in bytes.
const MaxVolumeName = 255

// A named volume is one that a call names, with what can be done with it.
type named struct {
	u   *backstore.URI
	can *backstore.Volumes
	key string // empty: it names no single volume
}

func (n *named) String() string { return n.u.Shown() }

// name reads which volume a call is about.
func (m *Manager) name(uri string) (*named, error) {
	u, err := backstore.ParseURI(uri)
	if err != nil {
		return nil, Errorf(Invalid, "%w", err)
	}
	if !printable(uri) {
		return nil, Errorf(Invalid, "volume %q: characters that do not print", u.Shown())
	}
	d, can, err := m.cfg.Registry.Volumes(u)
	if err != nil {
		return nil, &Error{Code: Unsupported, Err: fmt.Errorf("%s: %w", u.Shown(), err), Hint: "lunarctl store list says what each kind of volume can"}
	}
	for _, option := range u.Unused() {
		if !slices.Contains(d.Options, option) && !slices.Contains(can.Options, option) {
			known := append(slices.Clone(d.Options), can.Options...)
			return nil, Errorf(Invalid, "%s: there is no option %q; the %s driver has: %s", u.Shown(), option, d.Scheme, strings.Join(known, ", "))
		}
	}
	return &named{u, can, m.cfg.Registry.Key(u)}, nil
}

// one is name for what concerns a single volume; can tells whether its driver can do that.
func (m *Manager) one(uri, what string, can func(*backstore.Volumes) bool) (*named, error) {
	n, err := m.name(uri)
	if err != nil {
		return nil, err
	}
	if n.key == "" {
		return nil, Errorf(Invalid, "%s names no volume", n)
	}
	return n, n.check(what, can)
}

// check refuses what a driver cannot.
func (n *named) check(what string, can func(*backstore.Volumes) bool) error {
	if can(n.can) {
		return nil
	}
	e := &Error{Code: Unsupported, Text: fmt.Sprintf("%s: the %s driver cannot %s", n, n.u.Scheme, what), Hint: "it can nothing of the kind"}
	if list := n.can.Can(); len(list) > 0 {
		e.Hint = "it can: " + strings.Join(list, ", ")
	}
	return e
}

// checkName refuses what can be no name of a snapshot, with any engine.
func checkName(what, name string) error {
	switch {
	case name == "":
		return Errorf(Invalid, "%s is empty", what)
	case len(name) > MaxVolumeName:
		return Errorf(Invalid, "%s has %d bytes, at most %d are allowed", what, len(name), MaxVolumeName)
	case !printable(name) || strings.TrimSpace(name) != name:
		return Errorf(Invalid, "%s %q has characters that do not print, or blanks around it", what, name)
	}
	return nil
}

// checkSnapshot is checkName for what may become the name of a file, or part of a URI.
func checkSnapshot(name string) error {
	if err := checkName("the snapshot's name", name); err != nil {
		return err
	}
	if strings.ContainsAny(name, "/@?#&") || name[0] == '.' || name[0] == '-' {
		return Errorf(Invalid, "the snapshot's name %q: it begins with no dot or dash, and has none of / @ ? # &", name)
	}
	return nil
}

func printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// volumeError makes an *Error of what a driver answered about n.
func (n *named) volumeError(err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	out := &Error{Code: VolumeFailed, Err: fmt.Errorf("%s: %w", n, err)}
	switch backstore.ClassOf(err) {
	case backstore.ClassNotFound:
		out.Code = NoVolume
	case backstore.ClassBusy:
		out.Code = VolumeInUse
	case backstore.ClassUnsupported:
		out.Code = Unsupported
	case backstore.ClassRange:
		out.Code = Invalid
	case backstore.ClassTimeout:
		out.Code = Timeout
	case backstore.ClassOffline, backstore.ClassTransport:
		out.Hint = "is its engine there, and reachable from the daemon's machine?"
	}
	return out
}

// ask calls a driver for what changes nothing, within CallTimeout.
func ask[T any](ctx context.Context, m *Manager, n *named, do func(ctx context.Context) (T, error)) (T, error) {
	var none T
	ctx, done, err := m.begin(ctx)
	if err != nil {
		return none, err
	}
	defer done()
	out, err := do(ctx)
	if err != nil && ctx.Err() != nil {
		return none, &Error{Code: Timeout, Text: n.String(), Err: context.Cause(ctx), Hint: "is its engine there, and reachable from the daemon's machine?"}
	}
	return out, n.volumeError(err)
}

// Volumes is Service's.
func (m *Manager) Volumes(ctx context.Context, uri string) ([]VolumeInfo, error) {
	n, err := m.name(uri)
	if err == nil {
		err = n.check("list volumes", func(v *backstore.Volumes) bool { return v.List != nil })
	}
	if err != nil {
		return nil, err
	}
	list, err := ask(ctx, m, n, func(ctx context.Context) ([]backstore.Volume, error) { return n.can.List(ctx, n.u) })
	if err != nil {
		return nil, err
	}
	luns := m.lunsByVolume()
	out := make([]VolumeInfo, len(list))
	for i, v := range list {
		out[i] = VolumeInfo{v, nil}
		if u, err := backstore.ParseURI(v.URI); err == nil {
			out[i].LUNs = luns[m.cfg.Registry.Key(u)]
		}
	}
	return out, nil
}

// Volume is Service's.
func (m *Manager) Volume(ctx context.Context, uri string) (VolumeInfo, error) {
	n, err := m.one(uri, "look at a volume", func(v *backstore.Volumes) bool { return v.Stat != nil })
	if err != nil {
		return VolumeInfo{}, err
	}
	v, err := ask(ctx, m, n, func(ctx context.Context) (backstore.Volume, error) { return n.can.Stat(ctx, n.u) })
	if err != nil {
		return VolumeInfo{}, err
	}
	return VolumeInfo{v, m.lunsByVolume()[n.key]}, nil
}

// Trash is Service's.
func (m *Manager) Trash(ctx context.Context, uri string) ([]backstore.TrashedVolume, error) {
	n, err := m.name(uri)
	if err == nil {
		err = n.check("list deleted volumes", func(v *backstore.Volumes) bool { return v.Trash != nil })
	}
	if err != nil {
		return nil, err
	}
	return ask(ctx, m, n, func(ctx context.Context) ([]backstore.TrashedVolume, error) { return n.can.Trash(ctx, n.u) })
}

// Snapshots is Service's.
func (m *Manager) Snapshots(ctx context.Context, uri string) ([]backstore.Snapshot, error) {
	n, err := m.one(uri, "list snapshots", func(v *backstore.Volumes) bool { return v.Snapshots != nil })
	if err != nil {
		return nil, err
	}
	return ask(ctx, m, n, func(ctx context.Context) ([]backstore.Snapshot, error) { return n.can.Snapshots(ctx, n.u) })
}

// lunsByVolume lists the LUNs that are set, by the keys of their volumes, open or not.
func (m *Manager) lunsByVolume() map[string][]VolumeLUN {
	m.mu.RLock()
	list := m.entriesLocked()
	specs := make([]*specOfEntry, len(list))
	for i, e := range list {
		specs[i] = &specOfEntry{e, e.spec}
	}
	m.mu.RUnlock()
	out := map[string][]VolumeLUN{}
	for _, s := range specs {
		for i := range s.spec.LUNs {
			l := &s.spec.LUNs[i]
			u, err := backstore.ParseURI(l.Volume)
			if err != nil {
				continue
			}
			if key := m.cfg.Registry.Key(u); key != "" {
				out[key] = append(out[key], VolumeLUN{s.e.name, s.e.tid, l.Number, l.Offline})
			}
		}
	}
	return out
}
