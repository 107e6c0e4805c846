package admin

import (
	"context"
	"sync/atomic"
)

// A turn lets one change at a time at something; the others wait, as many as there may be, each within its context.
type turn struct {
	what    string        // for errors: "target iqn…"
	held    chan struct{} // has an element while somebody has the turn
	waiting atomic.Int64
}

func newTurn(what string) *turn { return &turn{what: what, held: make(chan struct{}, 1)} }

// take waits for the turn, which give hands on.
func (t *turn) take(ctx context.Context, most int) error {
	select {
	case t.held <- struct{}{}:
		return nil
	default:
	}
	defer t.waiting.Add(-1)
	if t.waiting.Add(1) > int64(most) {
		return &Error{Code: TooMany, Text: t.what + ": too many changes wait for their turn already", Hint: "try again later"}
	}
	select {
	case t.held <- struct{}{}:
		return nil
	case <-ctx.Done():
		return &Error{Code: Timeout, Text: t.what + ": another change is still under way", Err: context.Cause(ctx), Hint: "try again later"}
	}
}

func (t *turn) give() { <-t.held }
