package target

import (
	"context"
	"sync"
)

// A turn is a mutex that can be waited for within a context. The zero value is free. It is for what takes long and is done without a
// loop's lock: whoever has the turn may take that lock, never the other way round.
type turn struct {
	once sync.Once
	ch   chan struct{}
}

func (t *turn) init() { t.once.Do(func() { t.ch = make(chan struct{}, 1) }) }

// take waits for the turn; the error is ctx's.
func (t *turn) take(ctx context.Context) error {
	t.init()
	select {
	case t.ch <- struct{}{}:
		return nil
	default:
	}
	select {
	case t.ch <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// give ends the turn.
func (t *turn) give() { <-t.ch }
