package target

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Every loop turns when it is asked to, idle or not; one that hangs with its lock held is told of within the time that there is, and
// no other way of asking waits for it.
func TestTurning(t *testing.T) {
	s, err := NewServer(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.Turning(ctx); err != nil {
		t.Error("without a target:", err)
	}
	var list []*Target
	for _, n := range []string{"a", "b", "c"} {
		tg, err := s.AddTarget("iqn.2026-11.io.lunar:"+n, TargetConfig{})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, tg)
	}
	for range 3 {
		if err := s.Turning(ctx); err != nil {
			t.Error(err)
		}
	}
	hung := list[1].l
	hung.ev.Lock()
	short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	defer stop()
	if err := s.Turning(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Error("one hangs:", err)
	}
	hung.ev.Unlock()
	if err := s.Turning(ctx); err != nil {
		t.Error("it goes on:", err)
	}
	if err := list[0].Remove(ctx, true); err != nil {
		t.Fatal(err)
	}
	if err := s.Turning(ctx); err != nil {
		t.Error("one has gone:", err)
	}
}
