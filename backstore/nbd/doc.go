// Package nbd is the driver for volumes behind an NBD server: nbdkit, qemu-nbd, qemu-storage-daemon
// (and through it RBD, qcow2 and whatever else QEMU opens). Pure Go, asynchronous, pipelined.
//
//	u, err := backstore.ParseURI("nbd+unix:///disk?socket=/run/q.sock")
//	st, err := reg.Open(ctx, u, backstore.Options{}) // reg: backstore.NewRegistry(nbd.Drivers()...)
//	if st.Submit(r) == backstore.Pending { st.(backstore.Kicker).Kick() }
//
// It speaks the fixed newstyle handshake with NBD_OPT_GO, simple and structured replies, extended headers, FUA, FLUSH,
// TRIM, WRITE_ZEROES and BLOCK_STATUS, over several connections where the server says that they see one volume
// (CAN_MULTI_CONN), each within TLS where the URI says so. "NBD" in comments is the protocol document of the NBD project (proto.md), with the
// section's title.
//
// # Who runs what
//
// A Store has one lock. Submit takes a slot and queues the request on a connection; Kick sends what is
// queued with one system call a connection, header after header with the payloads where they lie. A full
// socket leaves the rest on the queue, which is the requests themselves and so is bounded by
// Info.MaxInFlight. Attached to a loop, the sockets are in the loop's epoll and everything but connecting
// happens there; otherwise a goroutine of the store's own waits for them (through an epoll set of its own
// in the runtime's poller, so without a thread). Complete is called with the lock let go.
//
// With TLS each connection has two goroutines that carry its bytes between TLS and a socket pair whose other end is the store's: tunnel.go.
//
// What a server sends is hostile input: every length is checked before a byte is kept, a read counts only
// if its chunks cover it exactly once, and a reply that breaks the protocol ends the connection.
//
// # When a connection is lost
//
// A request that fails must never be applied afterwards, and one that is sent again must not meet its first
// copy (backstore, rules 6 and 7). So the driver asks of every lost connection whether the server's end of it
// is known to be gone: it has closed it (an end of file, or any end of a unix socket). A time-out, a reset
// that any box on the way may have sent, or a connection that we gave up on, proves nothing. (The proof is as
// good as the server: one that closes a connection before it has dealt with what came on it, or whose engine
// goes on without it, is believed all the same; no word of the protocol tells.)
//
// What was in flight waits and is sent again, on another connection or after reconnecting (which is tried for
// ever, with growing pauses). It stays pending throughout, so the LU lets no overlapping request pass. Once
// the server has been away for the time limit ("offline_after"), waiting requests end with ClassOffline and so does
// every new one, until the server is back; only a write whose first copy may still run is not ended,
// because nobody can promise that it will not be applied: it stays pending until the server answers it.
//
// A server that went away may also have lost what it had acknowledged and not yet flushed, and a Flush
// answered by its successor would vouch for writes that are gone. A connection that was open before the loss
// can still be asked; if none is left the store is failed (every later write and flush ends with ClassMedium),
// unless the option restart=safe says that this server keeps acknowledged writes when it is killed or
// restarted, as those do whose data lies in the kernel's page cache or is written through.
//
// # When the export grows
//
// A connection knows the size that it was told when it was made. The store asks for the present one on a connection of its own (Sizer), and
// replaces the others, at a moment when nothing is in flight and all is flushed, when a larger size is to be used; a server that comes back
// with a larger export is followed (SizeWatcher). One that comes back with a smaller one is not used until somebody adopts that.
//
// The package knows nothing of SCSI and of the other drivers. It is part of lunar's stable API for
// programs that embed a target: Drivers and the options; the rest may change.
package nbd
