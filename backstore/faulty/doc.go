// Package faulty wraps any store with faults that are written down as text: errors, delays, hung
// requests, stalls. It is the test seam for everything above the backstore and is built into the
// daemon under the scheme "faulty", so that whole-system tests can use it.
//
// A rule is an operation, an action and conditions, separated by blanks or commas; rules are
// separated by semicolons or new lines, and the first that fits a request decides:
//
//	read error=medium every=100            every hundredth read fails
//	write delay=200ms                      every write waits first; Submit does not
//	write hang off=1M len=4K count=1       one write to that range never ends, until Release
//	stall=200ms every=1s                   the store stands still for 200 ms at the start of each second
//	any pending                            nothing ends within Submit
//
// Operations: read, write, flush, discard, zeroes, caw, allocation, any (or none). Actions: error=CLASS
// (medium, integrity, offline, busy, nospace, nospacetemp, readonly, timeout, fenced, transport,
// unsupported, cancelled, internal), delay=TIME, hang, pending, stall=TIME with every=TIME, wouldblock
// (refuse only NoWait). Conditions: off= and len= (bytes; the request overlaps), fua, after=N, every=N,
// count=N.
//
// The contract holds throughout. A held request keeps its buffers and is handed to the store when its
// time comes, that is, the write happens THEN: a late write, as an engine that was silent makes it. An
// injected error means that nothing was applied, and that of a Flush or FUA write is sticky. A NoWait
// request that a rule would hold is answered WouldBlock and is not counted by the rule.
//
//	st, err := faulty.New(inner, "write hang count=1")
//	…
//	err = st.Wait(ctx, 1) // until one is held
//	st.Release()
//
// A Store owns the store it wraps. Everything but Submit, Kick, Attach and Detach may be called from
// any goroutine.
package faulty
