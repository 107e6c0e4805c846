// Package librbd is what the rbd driver needs of Ceph's librbd and go-ceph does not have: I/O that ends by a descriptor instead of a
// thread, and long work that says how far it is. It exists with the build tag rbd and cgo only.
//
//	ring, _ := librbd.NewRing(256)
//	img, err := librbd.Open(ioctx.Pointer(), "image", "", false)
//	ring.Queue(librbd.Command{Slot: 3, Op: librbd.Read, Off: 0, Len: 4096, Buf: p})
//	ring.Submit(img)                  // one call into C for a batch
//	for _, d := range ring.Reap() {}  // when ring.FD() is readable
//
// # Who runs what
//
// librbd calls back from threads of its own when a request ends. The callback is C: it puts the request on a list without a lock and, where that was
// empty, writes to the ring's eventfd. No Go code runs on librbd's threads and no thread waits for a request. Everything that a request
// needs here is made with the ring, in C's memory, so neither submitting nor reaping allocates.
//
// Memory that requests read or fill is the caller's, who pins it (runtime.Pinner) from Queue until Reap has returned the slot.
//
// All other calls block for as long as the cluster takes, which may be for ever: they are never made on a loop.
package librbd
