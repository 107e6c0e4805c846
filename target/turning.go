package target

import (
	"context"
	"fmt"
	"time"
)

// turnPoll is how often Turning looks: a loop that is asked to turn does so within a turn's time, 200 µs of work.
const turnPoll = 5 * time.Millisecond

// Turning asks every loop for a turn, and waits within ctx until each has had one. An error says which did not: a loop that hangs serves nobody
// on its targets any more.
func (s *Server) Turning(ctx context.Context) error {
	s.mu.Lock()
	loops := append([]*loop(nil), s.loops...)
	s.mu.Unlock()
	done := make(chan error, 1)
	go func() { // taking the lock of a loop that hangs does not end
		before := make([]uint64, len(loops))
		for i, l := range loops {
			before[i] = l.ev.Stats().Turns
			l.ev.Wake()
		}
		tick := time.NewTicker(turnPoll)
		defer tick.Stop()
		for i, l := range loops {
			for l.ev.Stats().Turns == before[i] && !l.gone() {
				select {
				case <-ctx.Done():
					done <- fmt.Errorf("target: the loop of %s does not turn", l.name)
					return
				case <-tick.C:
				}
			}
		}
		done <- nil
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("target: a loop does not turn: %w", ctx.Err())
	}
}

// gone reports whether the loop has been closed.
func (l *loop) gone() bool {
	l.ev.Lock()
	defer l.ev.Unlock()
	return l.closed
}
