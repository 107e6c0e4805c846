//go:build rbd && cgo

package rbd

import (
	"context"
	"fmt"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Driver returns the driver of the scheme "rbd".
func Driver() backstore.Driver {
	return backstore.Driver{Scheme: "rbd", Help: driverHelp, Options: optionNames(), Open: open, Key: key, Volumes: volumes(),
		Traits: []string{"fua", "discard", "write zeroes", "compare and write", "allocation", "resize", "snapshots", "one writer", "take over"}}
}

// open opens an image. What blocks in librbd cannot be called back: when ctx ends first, it is left to end by itself, which it does within
// open_timeout, and what it brings is closed.
func open(ctx context.Context, u *backstore.URI, o backstore.Options) (backstore.Store, error) {
	c, err := parseImage(u, o)
	if err != nil {
		return nil, err
	}
	if o.TakeOver && c.readOnly {
		return nil, badURI("%s: a volume is taken over to be written", u.Shown())
	}
	ctx, cancel := context.WithTimeout(ctx, c.openTime)
	defer cancel()
	s, err := within(ctx, "open", func() (*Store, error) { return openStore(ctx, c, o) }, func(s *Store) { s.discard() })
	if err != nil {
		return nil, err
	}
	return s, nil
}

// within runs f, which blocks, until ctx ends. What f returns later than that is given to late.
func within[T any](ctx context.Context, op string, f func() (T, error), late func(T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	end := make(chan result, 1)
	go func() {
		v, err := f()
		end <- result{v, err}
	}()
	select {
	case r := <-end:
		return r.v, r.err
	case <-ctx.Done():
	}
	go func() {
		if r := <-end; r.err == nil {
			late(r.v)
		}
	}()
	var none T
	return none, &backstore.Error{Class: backstore.ClassOffline, Op: op, Cause: fmt.Errorf("the cluster does not answer: %w", context.Cause(ctx))}
}
