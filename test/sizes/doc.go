// Package sizes tests disks at the bounds of what LBAs, capacities and bytes can hold, through a running
// lunard: 2 TiB ± 1 block, 2^32 blocks, 16 TiB, nearly 2^63 bytes, with blocks of 512 and 4096 bytes.
//
// It knows lunard by its command line and the wire. Data is checked on memory, which is as sparse as the disk is
// large; a null store has no data but the largest capacity.
//
//	go test ./test/sizes
//
// It promises nothing to programs outside this module.
package sizes
