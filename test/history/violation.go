package history

import (
	"fmt"
	"strings"
)

// A Kind sorts violations.
type Kind uint8

// The kinds.
const (
	Torn      Kind = iota + 1 // a block is not of one write
	Misplaced                 // a block belongs elsewhere
	Foreign                   // content that nobody wrote, or an operation of another run
	Stale                     // older than what was acknowledged or seen before: a write was lost, or an old buffer read
	Late                      // a write that had ended without being acknowledged took effect afterwards
	Refused                   // a write that was refused was carried out
	Early                     // what was read was written later
	Compared                  // COMPARE AND WRITE succeeded where it could not, or failed where it could not
	Volatile                  // what was durable is not
	Cleft                     // a copy whose blocks are of no one moment
	Full                      // more values at once than the checker keeps: a fault of the test, not of the disk
)

func (k Kind) String() string {
	if names := [...]string{Torn: "torn block", Misplaced: "misplaced block", Foreign: "foreign content", Stale: "stale data", Late: "late write",
		Refused: "refused write carried out", Early: "data from the future", Compared: "compare and write", Volatile: "durable data lost",
		Cleft: "copy of no one moment", Full: "checker full"}; int(k) < len(names) && names[k] != "" {
		return names[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// A Violation is an answer of the disk that no order of the operations explains.
type Violation struct {
	Kind    Kind
	LBA     uint64
	Text    string
	History []string // the operations that touched the block, oldest first, a line each
}

func (v *Violation) Error() string {
	return fmt.Sprintf("%v: block %d: %s\nhistory of block %d (time of beginning and end):\n  %s", v.Kind, v.LBA, v.Text, v.LBA, strings.Join(v.History, "\n  "))
}

// violation makes one for block lba. Called with mu held.
func (h *History) violation(k Kind, lba uint64, format string, args ...any) *Violation {
	v := &Violation{Kind: k, LBA: lba, Text: fmt.Sprintf(format, args...)}
	b := &h.blocks[lba]
	if b.forgotten > 0 {
		v.History = append(v.History, fmt.Sprintf("… %d operations before", b.forgotten))
	}
	for i := range b.events {
		e := &b.events[(b.next+i)%len(b.events)]
		v.History = append(v.History, e.line())
	}
	var alive []string
	for _, x := range b.values {
		alive = append(alive, x.String())
	}
	v.History = append(v.History, "values that count: "+strings.Join(alive, ", "))
	return v
}

// line says what an operation did to one block.
func (e *event) line() string {
	o := e.op
	end := "…"
	if o.end != open {
		end = fmt.Sprint(o.end)
	}
	s := fmt.Sprintf("[%d, %s] writer %d: %s of %d+%d", o.start, end, o.writer, o.what, o.lba, o.n)
	if o.writes() {
		s += fmt.Sprintf(" (%v)", o.value)
	}
	if o.fua {
		s += " FUA"
	}
	s += ": " + o.state.String()
	switch e.seen {
	case aValue:
		s += ", saw " + e.value.String()
	case zeroes:
		s += ", saw zeroes"
	case rubbish:
		s += ", saw what no write of this block put there"
	case difference:
		s += ", saw a difference"
	}
	return s
}

func (x *value) String() string {
	name := x.id.String()
	if x.zero && x.id != 0 {
		name += " (zeroes)"
	}
	return fmt.Sprintf("%s %v since %d, %d reads", name, x.state, x.start, x.reads)
}
