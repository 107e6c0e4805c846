// Command clusterbench measures what lunar costs in front of a block cluster (make bench-cluster).
//
// One RBD image of a Ceph cluster in memory, which it starts, is read and written through lunard, through tgtd with Debian's tgt-rbd, and by lunar's own driver
// without iSCSI, with Ceph's cache off in all three; and a disk in the memory of an nbdkit through lunard and by the driver, beside a file in
// memory through lunard. Rounds are interleaved, and figures are medians; processor time is that of lunard, tgtd, or, for the driver, of this program, whose
// loop it is part of.
//
// It must be built with the rbd driver: scripts/rbd-env go run ./test/clusterbench. Without it the rows of NBD are measured alone (--rows nbd).
//
// It promises nothing to programs outside this module.
package main
