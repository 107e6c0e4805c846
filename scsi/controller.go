package scsi

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// ControllerConfig is what a controller shows of itself. The zero value of a field is its default.
type ControllerConfig struct {
	Vendor   string // cut to 8 characters; "LUNAR"
	Product  string // cut to 16; "Controller"
	Revision string // cut to 4; "0001"
	Serial   string // cut to 36; made from the identity
	// Identity names the controller for ever, say its target's name. Empty: it has no designator of its own.
	Identity string

	TgtNaming bool // the names that tgtd gives the controller of target TID
	TID       int

	TargetName      string
	TargetPortGroup uint16
	RelativePort    uint16
}

// NewController returns what tgt has at LUN 0: a storage array controller (device type 0Ch) without a
// medium, which answers INQUIRY, REPORT LUNS, REQUEST SENSE and TEST UNIT READY.
func NewController(cfg ControllerConfig) *LU {
	id := identity{Vendor: cfg.Vendor, Product: cfg.Product, Revision: cfg.Revision, Serial: cfg.Serial,
		TargetName: cfg.TargetName, TargetPortGroup: cfg.TargetPortGroup, RelativePort: cfg.RelativePort}
	if cfg.TgtNaming {
		_ = id.nameAsTgt(min(max(cfg.TID, 0), mostTID), 0, "")
	}
	id.defaults("Controller")
	if cfg.Identity != "" {
		sum := sha256.Sum256([]byte("lunar controller\x00" + cfg.Identity))
		if !id.tgt {
			id.NAA = naaLocal<<60 | binary.BigEndian.Uint64(sum[:])>>4
		}
		if id.Serial == "" {
			id.Serial = hex.EncodeToString(sum[8:20])
		}
	}
	id.Serial = id.Serial[:min(len(id.Serial), mostSerial)]
	return &LU{shape: shape{ops: controllerOps, id: id}, device: deviceController}
}

// NewAbsent returns what answers for a LUN that is not there: INQUIRY with peripheral qualifier 011b and
// device type 1Fh, REPORT LUNS, REQUEST SENSE; all else is LOGICAL UNIT NOT SUPPORTED.
func NewAbsent() *LU {
	lu := &LU{shape: shape{ops: absentOps}, device: deviceAbsent}
	lu.id.defaults("")
	return lu
}
