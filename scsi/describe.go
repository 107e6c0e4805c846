package scsi

import "github.com/lunar-iscsi/lunar/backstore"

// A DiskInfo tells of an LU at one moment.
type DiskInfo struct {
	Controller     bool
	Size           int64 // bytes; 0 without a medium
	BlockSize      int   // logical, bytes; 0 for a controller
	Online         bool  // there is a medium and it may be used
	Fenced         bool  // somebody else has taken the volume over
	Failed         bool  // the store refuses writes until it is opened anew, or a fault took the unit offline
	PreventRemoval bool  // some nexus prevents medium removal
	SWP            bool  // software write protect (control mode page)
	ReadOnly       bool
	Removable      bool
	Thin           bool // LBPME
	WriteCache     bool // WCE

	Vendor, Product, Revision, Serial string
	SCSIID                            string // only with TgtNaming
	Identity                          string
	NAA                               uint64 // the one that VPD page 83h shows first
}

// Describe tells of the LU. It is called on its loop, as everything here.
func (lu *LU) Describe() DiskInfo {
	id := &lu.id
	d := DiskInfo{
		Controller: lu.device == deviceController, BlockSize: int(lu.blockSize), Online: !lu.unready,
		Fenced: lu.fenced, Failed: lu.fenced || lu.failed || lu.offline != "", PreventRemoval: lu.prevents != 0, SWP: lu.modes.protect, ReadOnly: lu.readOnly, Removable: lu.removable,
		Thin: lu.unmap, WriteCache: lu.info.Has(backstore.CapFlush) && !lu.modes.writeThrough,
		Vendor: id.Vendor, Product: id.Product, Revision: id.Revision, Serial: id.Serial, SCSIID: id.scsiID, Identity: id.volume, NAA: id.NAA,
	}
	if lu.store != nil {
		d.Size = lu.info.Size
	}
	return d
}

// Volume returns what identifies the volume for ever.
func (lu *LU) Volume() string { return lu.id.volume }

// Config returns what the disk was configured with, the reservations aside.
func (lu *LU) Config() DiskConfig { return lu.cfg }
