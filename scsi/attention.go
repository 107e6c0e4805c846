package scsi

import (
	"math/bits"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// attentions are the unit attention conditions that an LU can establish, in SAM-5's order of precedence (§5.14,
// the reset class first); a nexus's pending conditions are a set of bits in this order.
var attentions = [...]sense.Code{
	sense.PowerOnOrReset,
	sense.PowerOn,
	sense.InternalReset,
	sense.BusReset,
	sense.DeviceReset,
	sense.NexusLoss,
	// The rest has no order of its own.
	sense.MediumMayHaveChanged,
	sense.ReportedLUNsChanged,
	sense.InquiryDataChanged,
	sense.CapacityChanged,
	sense.AsymmetricAccessChanged,
	sense.ReservationsPreempted,
	sense.ReservationsReleased,
	sense.RegistrationsPreempted,
	sense.ThresholdReached,
	sense.ModeParametersChanged,
	sense.CommandsClearedByOther,
}

// resetClass is the number of conditions at the head of attentions that are resets.
const resetClass = 6

// attentionBit returns the place of a code in attentions. Any other code is a programming error.
func attentionBit(code sense.Code) uint {
	for i, c := range attentions {
		if c == code {
			return uint(i)
		}
	}
	panic("scsi: no unit attention has the code " + code.String())
}

// covered is what a reset says by itself: that commands were cleared and mode parameters are as at
// power on. What an initiator must still learn after it (capacity, LUNs, reservations) is not covered.
var covered = uint32(1)<<attentionBit(sense.ModeParametersChanged) | 1<<attentionBit(sense.CommandsClearedByOther)

// A NexusLU is what an LU keeps for one I_T nexus. Only the LU's loop touches it.
type NexusLU struct {
	Nexus sam.Nexus
	// RelativePort is the relative target port identifier that VPD page 83h shows to this nexus; Attach
	// makes it the portal group tag, unless the LU's configuration says another.
	RelativePort uint16
	// Without are task management functions of the LU's that the transport does not carry for this nexus; the host sets it after Attach.
	Without []sam.TMF
	// ReadOnly refuses what would change the medium, or what others may do with it, to this nexus alone; the host sets it.
	ReadOnly bool

	attentions uint32 // pending conditions, bits in the order of attentions
	denied     uint32 // what reservations keep this nexus from, bits by resvClass
	pending    int    // commands in the task set
	// early are the commands that have come, in order, and are not in the task set yet: their data is to come, or they keep behind
	// one whose data is.
	early   []*Command
	held    int  // of these, behind another
	stirred bool // in lu.stirred
	// prevents: the nexus prevents the removal of the medium; see prevent.
	prevents bool
	at       int // in lu.nexuses
}

// Attach makes the LU known to a nexus, with a power-on unit attention pending.
func (lu *LU) Attach(n sam.Nexus) *NexusLU {
	nl := &NexusLU{Nexus: n, RelativePort: lu.id.relativePort(n.PortGroup), at: len(lu.nexuses)}
	lu.nexuses = append(lu.nexuses, nl)
	lu.usePort(n.Target, n.PortGroup, nl.RelativePort)
	nl.denied = lu.deniedTo(nl, lu.pr.find(n) >= 0)
	nl.raise(sense.PowerOnOrReset)
	return nl
}

// Detach forgets a nexus, and ends its RESERVE; what it registered stays. Its pending commands have been aborted before; those in doubt
// end as they would.
func (lu *LU) Detach(n *NexusLU) {
	if lu.reserver == n {
		lu.unreserve()
	}
	n.prevent(lu, false)
	last := len(lu.nexuses) - 1
	lu.nexuses[n.at] = lu.nexuses[last]
	lu.nexuses[n.at].at = n.at
	lu.nexuses[last] = nil
	lu.nexuses = lu.nexuses[:last]
	n.at = -1
	lu.dropPorts()
}

// raise establishes a condition. One that is pending already is not doubled; a reset takes the place of
// the resets below it and of what it covers.
func (n *NexusLU) raise(code sense.Code) {
	bit := attentionBit(code)
	if bit < resetClass {
		n.attentions &^= covered
		if resets := n.attentions & (1<<resetClass - 1); resets != 0 && uint(bits.TrailingZeros32(resets)) < bit {
			return
		}
		n.attentions &^= 1<<resetClass - 1
	}
	n.attentions |= 1 << bit
}

// take removes the pending condition of the highest precedence. There must be one.
func (n *NexusLU) take() sense.Code {
	bit := bits.TrailingZeros32(n.attentions)
	n.attentions &^= 1 << bit
	return attentions[bit]
}

// Raise establishes a unit attention condition for this nexus alone. The code is one that a logical unit
// reports so: 28h/00h, 29h/00h to 04h, 29h/07h, 2Ah/01h, 03h to 06h and 09h, 2Fh/00h, 38h/07h, 3Fh/03h and 0Eh.
func (n *NexusLU) Raise(code sense.Code) { n.raise(code) }

// Raise establishes a unit attention condition for every attached nexus but one (nil: for all).
func (lu *LU) Raise(code sense.Code, except *NexusLU) {
	for _, n := range lu.nexuses {
		if n != except {
			n.raise(code)
		}
	}
}

// TaskAborted reports whether commands that another nexus's commands and functions abort are to be answered TASK ABORTED: the TAS
// bit of the control mode page.
func (lu *LU) TaskAborted() bool { return !lu.modes.silentAbort }

// Cleared says that commands of n were aborted for another nexus. Where they were not answered, a unit attention tells of it
// (SAM-5 §5.14, COMMANDS CLEARED BY ANOTHER INITIATOR).
func (lu *LU) Cleared(n *NexusLU) { lu.cleared(n) }

func (lu *LU) cleared(n *NexusLU) {
	if !lu.TaskAborted() {
		n.raise(sense.CommandsClearedByOther)
	}
}

// ResetNexus does for one nexus what its loss does (SAM-5 §6.3.4), after the host has aborted its commands: RESERVE ends, and a
// unit attention tells of it. What it registered stays.
func (lu *LU) ResetNexus(n *NexusLU) {
	if lu.reserver == n {
		lu.unreserve()
	}
	n.prevent(lu, false)
	n.raise(sense.NexusLoss)
}

// Pending returns the unit attention condition that the nexus will be told next, without clearing it, and how many there are; 0: none.
func (n *NexusLU) Pending() (next sense.Code, count int) {
	if n.attentions == 0 {
		return 0, 0
	}
	return attentions[bits.TrailingZeros32(n.attentions)], bits.OnesCount32(n.attentions)
}

// Withdraw takes a pending unit attention condition back, whose reason is no more.
func (n *NexusLU) Withdraw(code sense.Code) { n.attentions &^= 1 << attentionBit(code) }

// Reset ends what a reset ends in the LU, after the host has aborted the pending commands, and establishes
// a unit attention condition for every attached nexus: 29h/03h after LOGICAL UNIT RESET, 29h/02h after a
// target reset. RESERVE ends; persistent reservations do not (SPC-4 §5.13.5).
//
// SPC-4, mode parameters: they are then what they were by default. A cache that was turned off stays so, since who did
// that has ceased to flush.
func (lu *LU) Reset(code sense.Code) {
	lu.unreserve()
	for _, n := range lu.nexuses {
		n.prevent(lu, false)
	}
	through := lu.modes.writeThrough
	lu.modes = lu.initial
	lu.modes.writeThrough = through
	lu.modesChanged()
	lu.Raise(code, nil)
}
