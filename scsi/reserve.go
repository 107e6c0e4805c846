package scsi

import (
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// Who may do what while the logical unit is reserved, and RESERVE and RELEASE (6) and (10) (SPC-2 §7.17 to §7.22), the reservations
// that end with their nexus. Those that stay are in persist.go.

// A resvClass says what a reservation of another nexus does to a command: a row of the tables of commands allowed in the presence of
// various reservations (SPC-4 §5.13.1, SBC-3 §4.17; for RESERVE SPC-2 §5.5.1). Registered nexuses are not in it:
// with the reservation types that have registrants, they are not hindered at all.
type resvClass uint8

const (
	resvAllowed resvClass = iota // never conflicts
	resvTest                     // TEST UNIT READY, LOG SENSE: conflicts with RESERVE alone
	resvRead                     // conflicts with exclusive access, and with RESERVE
	resvWrite                    // conflicts with write exclusive, exclusive access, and RESERVE
	resvStart                    // START STOP UNIT: as resvWrite, but allowed where it starts
	resvPrevent                  // PREVENT ALLOW MEDIUM REMOVAL: as resvWrite, but allowed where it allows
	resvReserve                  // RESERVE: conflicts with RESERVE of another, and with any registration
	resvRelease                  // RELEASE: conflicts with any registration
	resvPersist                  // PERSISTENT RESERVE IN and OUT: conflict with RESERVE of anybody; the rest they check themselves
)

// reservationCodes are the commands that make reservations or tell of them.
var reservationCodes = []byte{cdb.Reserve6, cdb.Release6, cdb.Reserve10, cdb.Release10, cdb.PersistentIn, cdb.PersistentOut}

// What the reservations of another deny: bits by class.
const (
	deniedByWrite   = 1<<resvWrite | 1<<resvStart | 1<<resvPrevent
	deniedByAccess  = deniedByWrite | 1<<resvRead
	deniedByReserve = deniedByAccess | 1<<resvTest | 1<<resvReserve | 1<<resvPersist
	// deniedByKeys is what any registration denies to everybody: CRH is 0 (SPC-4, REPORT CAPABILITIES).
	deniedByKeys = 1<<resvReserve | 1<<resvRelease
)

// deniedTo returns the classes of commands that conflict when n sends them, as bits. registered is whether n is.
func (lu *LU) deniedTo(n *NexusLU, registered bool) uint32 {
	var d uint32
	if lu.reserver != nil {
		d |= 1 << resvPersist
		if lu.reserver.Nexus != n.Nexus {
			d |= deniedByReserve
		}
	}
	p := &lu.pr
	if len(p.regs) != 0 {
		d |= deniedByKeys
	}
	if p.kind == 0 || !p.kind.all() && p.holder == n.Nexus {
		return d
	}
	if registered && p.kind.registrants() {
		return d
	}
	if p.kind.exclusive() {
		return d | deniedByAccess
	}
	return d | deniedByWrite
}

// regrant works out anew what is denied to whom, after any change of reservations.
func (lu *LU) regrant() {
	registered := make(map[sam.Nexus]struct{}, len(lu.pr.regs))
	for i := range lu.pr.regs {
		registered[lu.pr.regs[i].nexus] = struct{}{}
	}
	for _, n := range lu.nexuses {
		_, is := registered[n.Nexus]
		n.denied = lu.deniedTo(n, is)
	}
}

// conflicts ends c if a reservation is in its way. The caller has seen its class denied.
func (row *op) conflicts(c *Command) bool {
	switch row.resv {
	case resvStart:
		if len(c.CDB) > 4 && c.CDB[4]&0xf1 == 0x01 { // START, and no power condition
			return false
		}
	case resvPrevent:
		if len(c.CDB) > 4 && c.CDB[4]&0x03 == 0 {
			return false
		}
	}
	return c.conflict()
}

// conflict ends c with RESERVATION CONFLICT.
func (c *Command) conflict() bool {
	c.Status, c.Data, c.Sense = sam.ReservationConflict, nil, nil
	c.In, c.Out = 0, 0
	return true
}

// Bits of byte 1 of RESERVE and RELEASE that ask for what nobody offers any more (SPC-2 §7.21).
const (
	reserveExtent     = 0x01
	reserveLongID     = 0x02 // (10) only
	reserveThirdParty = 0x10
)

func prepareReserve(lu *LU, c *Command) bool {
	switch b := c.CDB[1]; {
	case c.restricted() && (c.CDB[0] == cdb.Reserve6 || c.CDB[0] == cdb.Reserve10):
		return lu.writeProtected(c)
	case b&reserveThirdParty != 0:
		return c.badField(1, 4)
	case b&reserveLongID != 0 && (c.CDB[0] == cdb.Reserve10 || c.CDB[0] == cdb.Release10):
		return c.badField(1, 1)
	case b&reserveExtent != 0:
		return c.badField(1, 0)
	}
	return true
}

func executeReserve(lu *LU, c *Command) Outcome {
	if lu.saving.busy {
		// A registration may come to be before this one is answered, and they exclude each other.
		c.Status = sam.Busy
		return Done
	}
	c.Status = sam.Good
	if lu.reserver == nil {
		lu.reserver = c.Nexus
		lu.regrant()
	}
	return Done
}

// RELEASE by whom the unit is not reserved for does nothing (SPC-2 §7.17).
func executeRelease(lu *LU, c *Command) Outcome {
	c.Status = sam.Good
	if lu.reserver != nil && lu.reserver.Nexus == c.Nexus.Nexus {
		lu.unreserve()
	}
	return Done
}

// unreserve ends what RESERVE established, if anything.
func (lu *LU) unreserve() {
	if lu.reserver != nil {
		lu.reserver = nil
		lu.regrant()
	}
}
