package scsi

import "github.com/lunar-iscsi/lunar/backstore"

// UnitOf returns the LU whose request r is: one that a store was given by an LU and has completed.
func UnitOf(r *backstore.Request) *LU {
	switch o := r.Owner.(type) {
	case *Command:
		return o.lu
	case *background:
		return o.lu
	case *saving:
		return o.lu
	case *LU:
		return o
	}
	return nil
}

// InFlight returns how many requests the store has of this LU: those in doubt included, and a flush behind a SYNCHRONIZE
// CACHE that has been answered. Saving reservations counts as one. At 0 the store may be detached and closed.
func (lu *LU) InFlight() int {
	if lu.saving.busy {
		return lu.flight + 1
	}
	return lu.flight
}

// Commands returns how many commands of the nexus the LU has, or waits for the data of.
func (n *NexusLU) Commands() int { return n.pending + len(n.early) - n.held }
