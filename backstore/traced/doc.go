// Package traced wraps a store and tells of every request as it ends, in one line: a debugging aid.
//
// It knows the Store contract and nothing else. A Store owns the store that it wraps; who made it owns the line function, which is called
// from whatever goroutine completes a request and must not block.
//
//	st = traced.New(st, "iqn.2026-11.io.lunar:disk/1", func(line string) { log.Println(line) })
package traced
