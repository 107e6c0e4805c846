// Package longhorn is the driver for volumes of a Longhorn engine on this machine. Pure Go, asynchronous, pipelined.
//
//	u, err := backstore.ParseURI("longhorn:pvc-1?engine=10.0.0.1:10000")
//	st, err := reg.Open(ctx, u, backstore.Options{}) // reg: backstore.NewRegistry(longhorn.Driver())
//	if st.Submit(r) == backstore.Pending { st.(backstore.Kicker).Kick() }
//
// It speaks the data protocol of the engine's frontend on its unix socket, as Longhorn's own tgtd does, and the engine's gRPC API for
// snapshots and sizes. Facts are those of longhorn-engine 1.12.
//
// # Who runs what
//
// A Store has one lock and one connection. Submit takes a slot and queues the request; Kick sends what is queued with one system call,
// header after header with the payloads where they lie. A full socket leaves the rest on the queue, which is the requests themselves and
// so is bounded by Info.MaxInFlight. Attached to a loop, the socket is in the loop's epoll and everything but connecting happens there;
// otherwise a goroutine of the store's own waits for it (through an epoll set of its own in the runtime's poller, so without a thread).
// Complete is called with the lock let go.
//
// What an engine sends is hostile input: every length is checked before a byte is kept, and an answer that breaks the protocol ends the
// connection.
//
// # What a write that was answered is worth
//
// The engine answers a write when every replica that counts has written it: with O_DIRECT, into a sparse file, without fsync or O_SYNC. So it
// survives the death of every process, the engine's and the replicas', and the loss of power of any node as long as one replica's node goes
// on. When all of them lose power at once, what their disks' caches held and what their file systems had not noted of newly allocated
// blocks may be gone. The protocol has no flush. So the store has no volatile cache that an initiator could flush (no CapFlush: Flush ends
// at once), and no FUA, which would promise more.
//
// # When the engine cannot
//
// A request that fails must never be applied afterwards, and one that is sent again must not meet its first copy (backstore, rules 6
// and 7). A unix socket that ends tells that the process at its other end is gone, or at least has closed it; the engine closes a
// connection when it dies, when it has said so (then requests may still run), and when it was sent nonsense. What was in flight waits, and is sent
// again after reconnecting, which is tried for ever. It stays pending throughout, so the LU lets no overlapping request pass.
//
// An engine without replicas answers everything with an error that says so. That is as good as none, since it will be started anew:
// requests wait, and it is asked from time to time. The same goes for the errors with which the last replica is lost; of those, "r/w timeout"
// leaves in doubt whether a write is still carried out, so it is never ended by anything but an answer. Other errors end their requests: no
// space with ClassNoSpace, all else with ClassMedium.
//
// With offline_after= requests that wait for so long end with ClassOffline, as far as they provably will not be applied, and so does
// every new one, until the engine is back.
//
// # When the volume grows
//
// See Resize: an engine does not grow at the request of an open store, which only follows.
//
// The package knows nothing of SCSI and of the other drivers. It is part of lunar's stable API for programs that embed a target: Driver and
// the options; the rest may change.
package longhorn
