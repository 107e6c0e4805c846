// Package null is a store without memory: reads are zeroes, writes are checked and dropped.
//
// It serves benchmarks and tests of very large sizes (up to 2^63-512 bytes), and it is the one driver
// for which "a completed write is seen by every later read" does not hold; it says so here because
// Info has no word for it. Every request ends within Submit; nothing is allocated.
//
//	u, _ := backstore.ParseURI("null:?size=1T")
//	st, err := null.Driver().Open(ctx, u, backstore.Options{})
package null
