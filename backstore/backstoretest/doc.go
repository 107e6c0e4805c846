// Package backstoretest is the conformance suite that every backstore driver passes, and the small
// event loop and harness that drivers use for tests of their own.
//
//	func TestStore(t *testing.T) {
//		backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store { return open(t, size) })
//	}
//
// open makes a fresh, zeroed, writable volume of exactly size bytes (a multiple of 64 KiB); the suite
// closes it. Options add what only the driver's test can do: open the same volume again, open it
// read-only.
//
// Each test runs on a bare store and, where the store is a backstore.Attacher, again attached to the
// loop of this package; the heavy ones run a third time behind faulty, with every request held back and
// let go out of the caller's thread. The suite checks what the contract says: data against a byte-array
// model with many requests in flight, every request completed exactly once, buffers untouched after
// completion, errors by class at the edges, NoWait, durability claims over a reopen, discard, zeroes
// and allocation claims, resizing, closing with requests in flight and with requests that never end,
// injected faults, no allocation on the steady path, no goroutine or descriptor left behind.
//
// Everything here belongs to the goroutine of the test; only Loop.Complete may be called from others.
package backstoretest
