package journal

import (
	"errors"
	"fmt"
	"os"
)

// A Recovery is a way out of a damaged file. In each the damaged one is kept, under another name.
type Recovery string

// The ways out.
const (
	None        Recovery = ""
	Salvage     Recovery = "salvage"  // what is ahead of the damage
	UsePrevious Recovery = "previous" // the file before this one was last written anew
	Discard     Recovery = "discard"  // nothing
)

// ParseRecovery reads the name of a way out.
func ParseRecovery(s string) (Recovery, error) {
	switch r := Recovery(s); r {
	case None, Salvage, UsePrevious, Discard:
		return r, nil
	}
	return None, fmt.Errorf("%q is not salvage, previous or discard", s)
}

// A DamageError says what is wrong with a file, where, and what can be done. Nothing has been changed.
type DamageError struct {
	File     string
	Offset   int64 // in bytes
	Record   int   // from 1; 0: the header
	Why      string
	Newer    bool // it is not damaged, but another version's
	Salvage  int  // changes that are ahead of the damage, the first with all that there was then
	Previous string
}

func (e *DamageError) Error() string {
	if e.Newer {
		return fmt.Sprintf("the saved state in %s is of another lunard: %s; start that one, or begin anew with --recover-state=discard, which keeps the file under another name", e.File, e.Why)
	}
	where := "its header"
	if e.Record > 0 {
		where = fmt.Sprintf("record %d", e.Record)
	}
	s := fmt.Sprintf("the saved state in %s is damaged: %s at byte %d: %s. Nothing was changed. Put a backup in its place, or start with", e.File, where, e.Offset, e.Why)
	if e.Salvage > 0 {
		s += fmt.Sprintf(" --recover-state=salvage (what the %d records ahead of the damage say),", e.Salvage)
	}
	if e.Previous != "" {
		s += fmt.Sprintf(" --recover-state=previous (the older state in %s),", e.Previous)
	}
	return s + " --recover-state=discard (nothing); the damaged file is kept under another name"
}

// recover goes the way out of a damaged file that Options name. r is what is ahead of the damage.
func (j *Journal) recover(r reading, f *fault) error {
	e := &DamageError{File: j.File(), Offset: f.off, Record: f.record, Why: f.why, Newer: f.newer, Salvage: r.records}
	var old reading
	if data, err := j.fs.ReadFile(Previous); err == nil {
		var bad *fault
		if old, bad = read(data); bad == nil {
			e.Previous = j.fs.Path(Previous)
		}
	}
	switch {
	case j.o.Recover == Salvage && r.records > 0:
		j.objects, j.seq = r.objects, r.seq
	case j.o.Recover == UsePrevious && e.Previous != "":
		j.objects, j.seq = old.objects, old.seq
	case j.o.Recover == Discard:
		j.objects, j.seq = map[string][]byte{}, 0
	default:
		return e
	}
	aside := Name + ".damaged-" + j.o.Stamp
	// A further name for it: until the new one is whole, a start finds the damaged one.
	if err := j.fs.Link(Name, aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w; and it could not be put aside: %w", e, err)
	}
	j.o.Log("the saved state was damaged; the daemon goes on with what was asked for", "file", e.File, "kept", j.fs.Path(aside), "recover", string(j.o.Recover), "objects", len(j.objects), "damage", f.why)
	return j.write(false)
}
