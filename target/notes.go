package target

import (
	"sync"
	"time"
)

// What peers bring about is logged once in a while: of each kind of line so many in a period, so that a flood fills no log. What is left
// out is counted, and the next line of its kind says how many there were.
const (
	noteBurst  = 50
	notePeriod = 10 * time.Second
)

// A noteKind is one kind of line that peers bring about.
type noteKind uint8

const (
	noteLogin noteKind = iota
	noteLoginFailed
	noteReinstated
	noteDropped
	noteDamaged
	noteFault
	noteLate
	noteKinds
)

// notes bounds such lines. It may be used from any goroutine.
type notes struct {
	log Logger
	now func() int64 // ns

	mu    sync.Mutex
	kinds [noteKinds]noteCount
	total uint64 // lines left out
}

type noteCount struct {
	since   int64 // the period's begin
	lines   int   // in it
	skipped uint64
}

// allow reports whether a line of kind k may be written, and how many were left out before it.
func (n *notes) allow(k noteKind) (ok bool, skipped uint64) {
	now := n.now()
	n.mu.Lock()
	defer n.mu.Unlock()
	c := &n.kinds[k]
	if c.lines == 0 || now-c.since >= int64(notePeriod) {
		c.since, c.lines = now, 0
	}
	if c.lines >= noteBurst {
		c.skipped++
		n.total++
		return false, 0
	}
	c.lines++
	skipped, c.skipped = c.skipped, 0
	return true, skipped
}

// info logs a line unless there were too many of its kind.
func (n *notes) info(k noteKind, msg string, kv ...any) {
	if ok, skipped := n.allow(k); ok {
		n.log.Info(msg, withSkipped(kv, skipped)...)
	}
}

// warn likewise.
func (n *notes) warn(k noteKind, msg string, kv ...any) {
	if ok, skipped := n.allow(k); ok {
		n.log.Warn(msg, withSkipped(kv, skipped)...)
	}
}

func withSkipped(kv []any, skipped uint64) []any {
	if skipped == 0 {
		return kv
	}
	return append(kv, "like_it_not_logged", skipped)
}

// left is how many lines were left out.
func (n *notes) left() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.total
}
