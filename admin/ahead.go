package admin

import (
	"context"
	"fmt"
	"sync"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
)

// Volumes that are opened ahead of the LUNs that are made of them one after the other, beside each other: a start takes as long as its slowest
// volume, and not as all that are away together.

// An ahead is a set of volumes that are being opened.
type ahead struct {
	m    *Manager
	list map[string]*opening // by the volume's key, or by the LUN; never changed
}

// An opening is one of them.
type opening struct {
	d     *disk
	ended chan struct{}
	once  sync.Once // over taking st
	st    backstore.Store
	err   error
}

type aheadKey struct{}

// openingName is what an opening is found by.
func openingName(d *disk, key, volume string) string {
	if key != "" {
		return "volume " + key + "\x00" + volume
	}
	return fmt.Sprintf("LUN %s/%d\x00%s", d.e.norm, d.lun, volume)
}

// openAhead begins to open the volumes of targets that are about to be made within the context that it returns. done closes those that nobody has taken.
func (m *Manager) openAhead(ctx context.Context, targets []spec.Target) (_ context.Context, done func()) {
	a := &ahead{m: m, list: map[string]*opening{}}
	within, cancel := context.WithCancel(ctx)
	var todo []func()
	for i := range targets {
		t := &targets[i]
		norm, _, _ := spec.NormalizeName(t.Name)
		e := &entry{name: t.Name, norm: norm}
		for k := range t.LUNs {
			l := t.LUNs[k].Clone()
			u, err := backstore.ParseURI(l.Volume)
			if err != nil || l.Volume == "" {
				continue
			}
			d := &disk{e: e, lun: l.Number}
			name := openingName(d, m.cfg.Registry.Key(u), l.Volume)
			if a.list[name] != nil || m.opened(&l) {
				continue
			}
			o := &opening{d: d, ended: make(chan struct{})}
			a.list[name] = o
			todo = append(todo, func() {
				defer close(o.ended)
				o.st, o.err = m.openVolume(within, u, d, &l, false)
			})
		}
	}
	work := make(chan func())
	var workers sync.WaitGroup
	for range min(len(todo), m.cfg.MaxOpening) {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for f := range work {
				f()
			}
		}()
	}
	workers.Add(1)
	go func() {
		defer workers.Done()
		defer close(work)
		for _, f := range todo {
			work <- f // after an end of within each ends at once
		}
	}()
	return context.WithValue(ctx, aheadKey{}, a), func() {
		cancel()
		workers.Wait()
		for _, o := range a.list {
			o.once.Do(func() { m.closeStore(o.d, o.st) })
		}
	}
}

// takeAhead waits for d's volume, if it is being opened ahead, and takes it. An error is that of every LUN of the volume: none waits for it again.
func takeAhead(ctx context.Context, d *disk, volume string) (st backstore.Store, err error, begun bool) {
	a, _ := ctx.Value(aheadKey{}).(*ahead)
	if a == nil {
		return nil, nil, false
	}
	o := a.list[openingName(d, a.m.volumeKey(volume), volume)]
	if o == nil {
		return nil, nil, false
	}
	select {
	case <-o.ended:
	case <-ctx.Done():
		return nil, context.Cause(ctx), true
	}
	if o.err != nil {
		return nil, o.err, true
	}
	o.once.Do(func() { st = o.st })
	return st, nil, st != nil
}
