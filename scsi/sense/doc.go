// Package sense holds the sense keys and additional sense codes of SPC-4 by name, and writes and
// reads sense data in both formats.
//
// It knows bytes and names; which code answers which failure is the business of package scsi. Nothing
// here keeps the caller's memory.
//
//	d := sense.Data{Key: sense.IllegalRequest, Code: sense.InvalidFieldInCDB}
//	d.PointAt(sense.InCDB, 1, 7)
//	b := d.AppendFixed(buf[:0])
//	back, err := sense.Parse(b)
//
// It promises nothing to programs outside this module.
package sense
