package tgtipc

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
)

// A fake is a service without a server: what is set, and what a test says is live.
type fake struct {
	admin.VolumeService // tgt has nothing of the kind
	mu                  sync.Mutex
	doc                 spec.Document
	bound               []netip.AddrPort
	sessions            map[int][]target.SessionInfo // by TID
	prevent             map[string]bool              // "tid/lun": an initiator prevents removal
	unopen              map[string]error             // by volume
	sizes               map[string]int64             // by volume, of those resized
	down                bool
	drivers             []admin.DriverInfo
	block               chan struct{} // where set, System waits for it
	entered             chan struct{} // is told so
}

func newFake() *fake {
	return &fake{sessions: map[int][]target.SessionInfo{}, prevent: map[string]bool{}, unopen: map[string]error{}, sizes: map[string]int64{}}
}

var _ admin.Service = (*fake)(nil)

func (f *fake) lock() func() { f.mu.Lock(); return f.mu.Unlock }

func (f *fake) Document() spec.Document { defer f.lock()(); return f.doc.Clone() }

func (f *fake) Targets(bool) (ts []admin.TargetState) {
	defer f.lock()()
	for i := range f.doc.Targets {
		ts = append(ts, f.state(&f.doc.Targets[i]))
	}
	return ts
}

func (f *fake) state(t *spec.Target) admin.TargetState {
	live := target.Info{Sessions: f.sessions[t.TID]}
	if !t.NoController {
		live.LUNs = append(live.LUNs, target.LUNInfo{Controller: true, Online: true})
	}
	for _, l := range t.LUNs {
		li := target.LUNInfo{LUN: l.Number, BlockSize: max(l.BlockSize, 512), ReadOnly: l.ReadOnly, Thin: true, NAA: 0x3a, Serial: "own",
			PreventRemoval: f.prevent[fmt.Sprintf("%d/%d", t.TID, l.Number)]}
		if size, err := f.open(l.Volume); err == nil && l.Volume != "" {
			li.Size, li.Online = size, !l.Offline
		}
		live.LUNs = append(live.LUNs, li)
	}
	return admin.TargetState{Spec: t.Clone(), Live: live}
}

// open is the size of a volume.
func (f *fake) open(volume string) (int64, error) {
	if size, ok := f.sizes[volume]; ok {
		return size, nil
	}
	path, options, _ := strings.Cut(volume, "?")
	if err := f.unopen[volume]; err != nil {
		return 0, &admin.Error{Code: admin.OpenFailed, Text: volume, Err: err}
	}
	path, file := strings.CutPrefix(path, "file://")
	switch {
	case volume == "":
		return 0, nil
	case volume == "null:?size=1T":
		return 1 << 40, nil
	case !file:
		return 64 << 20, nil
	}
	st, err := os.Stat(path)
	switch {
	case err == nil && st.IsDir():
		err = &fs.PathError{Op: "open", Path: path, Err: syscall.EISDIR}
	case err == nil && st.Mode().Perm()&0o200 == 0 && !strings.Contains(options, "readonly=on"):
		err = fs.ErrPermission
	}
	if err != nil {
		return 0, &admin.Error{Code: admin.OpenFailed, Text: "volume " + volume, Err: err}
	}
	return st.Size(), nil
}

func (f *fake) find(ref admin.Ref) (*spec.Target, error) {
	for i := range f.doc.Targets {
		if t := &f.doc.Targets[i]; t.TID == ref.TID || t.Name == ref.Name {
			return t, nil
		}
	}
	return nil, admin.Errorf(admin.NoTarget, "there is no target %d", ref.TID)
}

func (f *fake) Target(ref admin.Ref, _ bool) (admin.TargetState, error) {
	defer f.lock()()
	t, err := f.find(ref)
	if err != nil {
		return admin.TargetState{}, err
	}
	return f.state(t), nil
}

func (f *fake) AddTarget(_ context.Context, t spec.Target) (spec.Target, error) {
	defer f.lock()()
	for _, o := range f.doc.Targets {
		if o.TID == t.TID || strings.EqualFold(o.Name, t.Name) {
			return t, admin.Errorf(admin.TargetExists, "target %s exists", o.Name)
		}
	}
	f.doc.Targets = append(f.doc.Targets, t.Clone())
	slices.SortFunc(f.doc.Targets, func(a, b spec.Target) int { return a.TID - b.TID })
	return t, nil
}

func (f *fake) EditTarget(_ context.Context, ref admin.Ref, edit func(*spec.Target) error) error {
	defer f.lock()()
	t, err := f.find(ref)
	if err != nil {
		return err
	}
	n := t.Clone()
	if err := edit(&n); err != nil {
		return fmt.Errorf("target %s: %w", t.Name, err)
	}
	*t = n
	return nil
}

func (f *fake) RemoveTarget(_ context.Context, ref admin.Ref, force bool) error {
	defer f.lock()()
	t, err := f.find(ref)
	if err != nil {
		return err
	}
	if len(f.sessions[t.TID]) > 0 && !force {
		return admin.Errorf(admin.TargetInUse, "target %s has sessions", t.Name)
	}
	delete(f.sessions, t.TID)
	f.doc.Targets = slices.DeleteFunc(f.doc.Targets, func(o spec.Target) bool { return o.TID == t.TID })
	return nil
}

func (f *fake) DrainTarget(context.Context, admin.Ref) error { panic("tgt has no drain") }

func (f *fake) AddLUN(_ context.Context, ref admin.Ref, l spec.LUN, _ bool) (spec.LUN, error) {
	defer f.lock()()
	t, err := f.find(ref)
	if err != nil {
		return l, err
	}
	if _, err := f.open(l.Volume); err != nil {
		return l, err
	}
	t.LUNs = append(t.LUNs, l.Clone())
	slices.SortFunc(t.LUNs, func(a, b spec.LUN) int { return int(a.Number) - int(b.Number) })
	return l, nil
}

func (f *fake) findLUN(ref admin.Ref, lun uint16) (*spec.LUN, error) {
	t, err := f.find(ref)
	if err != nil {
		return nil, err
	}
	for i := range t.LUNs {
		if t.LUNs[i].Number == lun {
			return &t.LUNs[i], nil
		}
	}
	return nil, admin.Errorf(admin.NoLUN, "target %s has no LUN %d", t.Name, lun)
}

func (f *fake) EditLUN(_ context.Context, ref admin.Ref, lun uint16, edit func(*spec.LUN) error) error {
	defer f.lock()()
	l, err := f.findLUN(ref, lun)
	if err != nil {
		return err
	}
	n := l.Clone()
	if err := edit(&n); err != nil {
		return err
	}
	switch {
	case n.Offline && !l.Offline && f.prevent[fmt.Sprintf("%d/%d", ref.TID, lun)]:
		return admin.Errorf(admin.RemovalPrevented, "LUN %d: removal is prevented", lun)
	case n.Volume != l.Volume && !l.Offline:
		return admin.Errorf(admin.Invalid, "LUN %d is online", lun)
	}
	if _, err := f.open(n.Volume); err != nil {
		return err
	}
	*l = n
	return nil
}

func (f *fake) RemoveLUN(_ context.Context, ref admin.Ref, lun uint16, _ bool) error {
	defer f.lock()()
	if _, err := f.findLUN(ref, lun); err != nil {
		return err
	}
	t, _ := f.find(ref) // just found
	t.LUNs = slices.DeleteFunc(t.LUNs, func(l spec.LUN) bool { return l.Number == lun })
	return nil
}

func (f *fake) TakeOverLUN(context.Context, admin.Ref, uint16) error { panic("tgtadm cannot") }

func (f *fake) ResizeLUN(_ context.Context, ref admin.Ref, lun uint16, size int64, force bool) (int64, error) {
	defer f.lock()()
	l, err := f.findLUN(ref, lun)
	if err != nil {
		return 0, err
	}
	was, err := f.open(l.Volume)
	switch {
	case err != nil:
		return 0, err
	case strings.HasPrefix(l.Volume, "null:"):
		return 0, admin.Errorf(admin.Unsupported, "this store has no size")
	case size == 0:
		return was, nil
	case size < was && !force:
		return 0, admin.Errorf(admin.WouldShrink, "it has %d bytes", was)
	}
	f.sizes[l.Volume] = size
	return size, nil
}

func (f *fake) AddAccount(_ context.Context, a spec.Account) error {
	defer f.lock()()
	if slices.ContainsFunc(f.doc.Accounts, func(o spec.Account) bool { return o.Name == a.Name }) {
		return admin.Errorf(admin.AccountExists, "account %q exists", a.Name)
	}
	f.doc.Accounts = append(f.doc.Accounts, a)
	return nil
}

func (f *fake) SetSecret(context.Context, string, string) error {
	panic("tgt has no change of secrets")
}

func (f *fake) RemoveAccount(_ context.Context, name string) error {
	defer f.lock()()
	n := len(f.doc.Accounts)
	f.doc.Accounts = slices.DeleteFunc(f.doc.Accounts, func(a spec.Account) bool { return a.Name == name })
	if len(f.doc.Accounts) == n {
		return admin.Errorf(admin.NoAccount, "there is no account %q", name)
	}
	for i := range f.doc.Targets {
		unbind(&f.doc.Targets[i].Auth, name)
	}
	unbind(&f.doc.Discovery, name)
	return nil
}

func unbind(a *spec.Auth, name string) {
	a.Incoming = slices.DeleteFunc(a.Incoming, func(n string) bool { return n == name })
	if a.Outgoing == name {
		a.Outgoing = ""
	}
}

func (f *fake) EditDiscovery(_ context.Context, edit func(*spec.Auth) error) error {
	defer f.lock()()
	d := f.doc.Clone().Discovery
	if err := edit(&d); err != nil {
		return err
	}
	f.doc.Discovery = d
	return nil
}

func (f *fake) Portals() (ps []admin.PortalState) {
	defer f.lock()()
	for i, p := range f.doc.Portals {
		ps = append(ps, admin.PortalState{Spec: p, Bound: f.bound[i]})
	}
	return ps
}

func (f *fake) AddPortal(_ context.Context, p spec.Portal) (admin.PortalState, error) {
	defer f.lock()()
	a, err := netip.ParseAddrPort(p.Address)
	switch {
	case err != nil:
		return admin.PortalState{}, admin.Errorf(admin.Invalid, "portal: %w", err)
	case slices.Contains(f.bound, a):
		return admin.PortalState{}, admin.Errorf(admin.PortalExists, "portal %s is there", a)
	case a.Addr() == netip.AddrFrom4([4]byte{203, 0, 113, 9}):
		return admin.PortalState{}, admin.Errorf(admin.Invalid, "portal %s: no such address here", a)
	case a.Port() == 0:
		a = netip.AddrPortFrom(a.Addr(), 36373)
	}
	f.doc.Portals, f.bound = append(f.doc.Portals, p), append(f.bound, a)
	return admin.PortalState{Spec: p, Bound: a}, nil
}

func (f *fake) RemovePortal(_ context.Context, addr netip.AddrPort) error {
	defer f.lock()()
	i := slices.Index(f.bound, addr)
	if i < 0 {
		return admin.Errorf(admin.NoPortal, "there is no portal %s", addr)
	}
	f.doc.Portals, f.bound = slices.Delete(f.doc.Portals, i, i+1), slices.Delete(f.bound, i, i+1)
	return nil
}

func (f *fake) CloseSession(context.Context, admin.Ref, uint16) error {
	panic("tgt closes connections")
}

func (f *fake) CloseConnection(_ context.Context, ref admin.Ref, tsih, _ uint16) error {
	defer f.lock()()
	f.sessions[ref.TID] = slices.DeleteFunc(slices.Clone(f.sessions[ref.TID]), func(s target.SessionInfo) bool { return s.TSIH == tsih })
	return nil
}

func (f *fake) System() admin.SystemState {
	if f.block != nil {
		f.entered <- struct{}{}
		<-f.block
	}
	defer f.lock()()
	return admin.SystemState{Spec: f.doc.System}
}

func (f *fake) EditSystem(_ context.Context, edit func(*spec.System) error) error {
	defer f.lock()()
	return edit(&f.doc.System)
}

func (f *fake) Shutdown(_ context.Context, onlyIfEmpty bool) error {
	defer f.lock()()
	if onlyIfEmpty && len(f.doc.Targets) > 0 {
		return admin.Errorf(admin.TargetInUse, "%d targets are there", len(f.doc.Targets))
	}
	f.down = true
	return nil
}

func (f *fake) Drivers() []admin.DriverInfo { return f.drivers }

func (f *fake) Apply(context.Context, spec.Document, admin.ApplyOptions) ([]admin.Step, error) {
	panic("tgt has no documents")
}

func (f *fake) Watch(context.Context) <-chan admin.Event { panic("tgt has no events") }
