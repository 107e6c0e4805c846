// Package rbd is the driver for Ceph's block devices: images of RBD, by librbd. It needs cgo and is built with the tag rbd only
// (scripts/rbd-env, make build-rbd); without it Driver says what to do about that.
//
//	u, err := backstore.ParseURI("rbd:pool/image?conf=/etc/ceph/ceph.conf&id=lunar")
//	st, err := reg.Open(ctx, u, backstore.Options{}) // reg: backstore.NewRegistry(rbd.Driver())
//	if st.Submit(r) == backstore.Pending { st.(backstore.Kicker).Kick() }
//
// # Who runs what
//
// Each Store is a client of the cluster of its own, so that shutting out one of them (blocklisting is by client) shuts out one volume and not
// its neighbours. It has one lock. Submit queues a request in memory of C's, Kick hands the batch to librbd with one call, and librbd's own
// threads tell a ring of internal/librbd, whose descriptor is in the loop's epoll; Complete is called on the loop. Without a loop a
// goroutine of the store's own waits for the descriptor, in the runtime's poller. What blocks (opening, resizing, asking for the
// allocation, closing) is done by goroutines, a bounded number for each store.
//
// # What is promised
//
// Without librbd's cache, the default, a write is on all replicas when it completes: there is nothing to flush, and FUA costs nothing. With cache=
// the cache is volatile: Info says so, a flush is a flush, and FUA is a write and a flush.
//
// librbd has no way to take a request back, and a time limit of its own (rados_osd_op_timeout) would end requests that may still be applied. So
// there is none, whatever ceph.conf says: while the cluster is silent, requests stay pending.
//
// # One writer
//
// The image's exclusive lock is taken when it is opened and kept, so that it does not wander between two writers. An image that somebody else has
// open is refused, or waited for. Opening with TakeOver puts everybody else who has it open on the cluster's blocklist first: nothing
// that they have sent, or send when they wake up, is applied from then on. A store that was itself shut out says ClassFenced from then on.
//
// The package knows nothing of SCSI and of the other drivers. It is part of lunar's stable API for programs that embed a target: Driver and the
// options; the rest may change.
package rbd
