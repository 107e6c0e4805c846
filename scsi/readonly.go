package scsi

import "github.com/lunar-iscsi/lunar/scsi/sense"

// Write protection: of the whole unit (DiskConfig.ReadOnly, a store that cannot be written, SWP of the control mode page), and of one nexus
// that may only read. Such a nexus changes nothing for others: no block, no mode page, no reservation. What it may do
// is to flush what others wrote, and to ask for everything.

// protects reports whether c may not change the medium.
func (lu *LU) protects(c *Command) bool { return lu.protected || c.restricted() }

// restricted reports whether c is of a nexus that may only read.
func (c *Command) restricted() bool { return c.Nexus != nil && c.Nexus.ReadOnly }

// writeProtected ends a command that would change the medium, or what others may do with it.
func (lu *LU) writeProtected(c *Command) bool {
	code := sense.SoftwareWriteProtected
	if lu.readOnly || c.restricted() {
		code = sense.WriteProtected
	}
	c.fail(sense.Data{Key: sense.DataProtect, Code: code})
	return false
}
