// Package sam holds the words of the SCSI Architecture Model (SAM-5) that every
// other layer uses: logical unit numbers, I_T nexus names, task attributes, task
// management functions and status codes. It knows no transport, no CDB and no LU.
//
// It promises nothing to programs outside this module.
package sam
