// Package cdb reads and writes command descriptor blocks (SPC-4, SBC-3): operation codes, names,
// lengths, and views of their fields.
//
// It knows the layout of a CDB and nothing of what a command does. Views are conversions of the caller's
// bytes; nothing is copied or kept. The caller has made sure of the length (Len).
//
//	fmt.Println(cdb.Name(b), cdb.Describe(b))
//	lba, blocks := cdb.Range(b)
//	b := cdb.Transfer(cdb.Read16, 1<<33, 8, cdb.FUA)
//
// It promises nothing to programs outside this module.
package cdb
