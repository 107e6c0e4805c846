// Package file is the driver for regular files and block devices, the embedded default.
//
//	file:///srv/disk.img                       an existing file or device
//	file:///srv/disk.img?size=1G               made, sparse, if it is not there
//	file:/dev/sdb?direct=on&cache=writethrough
//
// Options: size (of a file to make; an existing one may not be smaller and is not truncated when it is opened),
// thin=on|off (sparse with discards, or fully allocated without), direct=on|off (O_DIRECT),
// cache=writeback|writethrough, shared=on|off (no lock: others may have it open too), readonly=on|off,
// writer=on|off (what becomes of buffered writes that may wait without saying so: writer.go).
//
// # How a request ends
//
// What cannot wait for a disk is done within Submit: anything on a file system in memory, with raw
// system calls; elsewhere cached reads by preadv2 with RWF_NOWAIT, and writes where the file system
// (xfs, btrfs) can say "not now". Everything else goes to the loop's io_uring (one ring a loop, made on
// first use; its eventfd is in the loop's epoll), or to a few worker goroutines of the store where a
// kernel or sandbox has no io_uring for us (one line in the log) or nobody attached the store. Buffered
// writes on file systems that cannot say "not now" (ext4), and on devices, are the hard case; writer.go
// says what was measured and done. Durable writes are RWF_DSYNC, a flush is fdatasync, and one that
// fails makes the store fail every further write until it is opened anew, since Linux reports a
// write-back error once and forgets it.
//
// # Snapshots
//
// The snapshots of /srv/d.img are files in /srv/d.img.snapshots (snapname.go); what takes time to make has a temporary name until it is
// whole (making.go). Of an open volume one is taken in a moment at which no change is under way, by reflink or by a copy that the
// changes wait for, a piece at a time (gate.go, snapshot.go). The rest of what administration asks is in volumes.go.
//
// # Who owns what
//
// A Store owns its descriptor and its lock. Submit, Kick, Attach, Detach and everything of the ring belong to
// the loop (or to the one goroutine that calls them); exec.go runs on workers and touches only atomics.
// The package knows the backstore contract and the kernel; nothing of SCSI or targets.
//
// Not done: PR_SET_IO_FLUSHER. It is a property of a thread, so it would pin the writer to one and add a thread
// switch to every batch; the daemon can set it for all threads at its start, before the runtime makes others.
package file
