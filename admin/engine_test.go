package admin

import (
	"context"
	"errors"
	"sync"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/mem"
)

// An engine has volumes of the scheme "engine" that can be away, had by somebody else, and taken over.
type engine struct {
	mu      sync.Mutex
	down    backstore.Class // what opening answers; 0: it opens
	taken   bool            // somebody else has every volume
	gate    chan struct{}   // opening waits for it, where there is one
	opening chan string     // told of each opening, where there is one
	open    int             // stores that are open
	fences  int
	begun   int  // openings under way
	most    int  // of them at once
	shutOut bool // its stores answer that somebody else has taken over
}

func (g *engine) set(f func(*engine)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g)
}

func (g *engine) counts() (open, fences int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open, g.fences
}

func (g *engine) registry(traits ...string) *backstore.Registry {
	return backstore.NewRegistry(mem.Driver(), backstore.Driver{Scheme: "engine", Traits: traits, Open: g.openVolume})
}

func (g *engine) openVolume(ctx context.Context, u *backstore.URI, o backstore.Options) (backstore.Store, error) {
	g.mu.Lock()
	gate, opening := g.gate, g.opening
	g.begun++
	g.most = max(g.most, g.begun)
	g.mu.Unlock()
	defer g.set(func(g *engine) { g.begun-- })
	if opening != nil {
		opening <- u.Path
	}
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, &backstore.Error{Class: backstore.ClassTimeout, Op: "open", Cause: context.Cause(ctx)}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.down != 0:
		return nil, &backstore.Error{Class: g.down, Op: "open", Cause: errors.New("the engine is away")}
	case g.taken && !o.TakeOver:
		return nil, &backstore.Error{Class: backstore.ClassBusy, Op: "open", Cause: errors.New("somebody else has it")}
	}
	st, err := mem.New(mem.Config{Size: 1 << 20, BlockSize: 512})
	if err != nil {
		return nil, err
	}
	g.open++
	if o.TakeOver {
		g.taken, g.shutOut = false, false
		g.fences++
	}
	return &engineStore{st, g}, nil
}

type engineStore struct {
	backstore.Store
	g *engine
}

func (s *engineStore) Info() backstore.Info {
	i := s.Store.Info()
	i.Driver, i.Identity, i.Caps = "engine", "", i.Caps|backstore.CapFlush
	return i
}

func (s *engineStore) Submit(r *backstore.Request) backstore.Outcome {
	s.g.mu.Lock()
	out := s.g.shutOut
	s.g.mu.Unlock()
	if out {
		r.Err = &backstore.Error{Class: backstore.ClassFenced, Op: r.Op.String()}
		return backstore.Done
	}
	return s.Store.Submit(r)
}

func (s *engineStore) Close(ctx context.Context) error {
	s.g.set(func(g *engine) { g.open-- })
	return s.Store.Close(ctx)
}

func (s *engineStore) Fence(context.Context) error {
	s.g.set(func(g *engine) { g.fences++ })
	return nil
}
