// Package curve is the driver for volumes of CurveBS, through nebd-server, the proxy that each of its hosts runs so that Curve can be upgraded under
// open volumes. Pure Go, asynchronous, pipelined.
//
//	u, err := backstore.ParseURI("cbd:pool//volume_user_")
//	st, err := reg.Open(ctx, u, backstore.Options{}) // reg: backstore.NewRegistry(curve.Driver())
//	if st.Submit(r) == backstore.Pending { st.(backstore.Kicker).Kick() }
//
// Package brpc is the framing. The messages (protobuf package nebd.client) are few and small, and written by hand.
//
// # Who runs what
//
// A Store has a connection of its own for I/O, in the epoll of the loop that it is attached to, and one lock. Submit takes a slot and queues the request; Kick
// sends what is queued with one system call, head after head with the data where it lies. A full socket leaves the rest on the queue, which is the
// requests themselves and so is bounded by Info.MaxInFlight. Without a loop a goroutine of the store's own waits for the socket. Complete is called with the lock let
// go. Answers come in any order; what the server sends is hostile input, and whatever breaks the protocol ends the connection.
//
// nebd-server has one descriptor for a name, whoever asks, and does not count: so all stores of a process share descriptors (volume), by name, and the connection and
// the heartbeat that belong to them (host), by socket. Processes keep each other out with the lock file that libnebd uses. Locks are taken in the
// order volume.turn, host.mu, Store.mu.
//
// # What the server cannot be trusted with
//
// A request that is not in whole blocks of the volume's kills it, with every volume of the host; one without a length or beyond the end, and as it comes also one
// that fails, is never answered, and closing the descriptor then hangs it. So Submit refuses what is none, and nothing waits for an answer but its request. Close gives up when
// its context ends; the store and its descriptor then live on until the last answer.
//
// # When the server goes away
//
// It does so to be upgraded, and its successor has the same descriptors. What was not answered is sent again, for as long as that takes, and stays pending throughout, so
// that the LU lets nothing overlap it. Before that the volume is opened again, which of an open one answers the same descriptor: had the server lost its records,
// the number might be another volume's by now. With offline_after, requests that cannot have been carried out end after that time with ClassOffline.
//
// # Flags
//
// A volume is always opened with exclusive=false: else a read of what this server holds for never written answers zeroes although another gateway has
// written there since.
//
// The package knows nothing of SCSI and of the other drivers. It is part of lunar's stable API for programs that embed a target: Driver and the options; the
// rest may change.
package curve
