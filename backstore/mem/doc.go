// Package mem is a store in the process's own memory, for tests, benchmarks and scratch disks.
//
// Memory is taken in pages of 64 KiB as they are first written, so a volume of an exbibyte costs
// nothing until it is used; it takes at most its size. Discard gives pages back. What it holds is
// gone when it is closed; Flush and FUA have nothing to do and end at once.
//
// It knows the backstore contract and nothing else. A store owns its pages; buffers are copied and never
// kept. Every request ends within Submit.
//
//	u, _ := backstore.ParseURI("mem:?size=64M")
//	st, err := mem.Driver().Open(ctx, u, backstore.Options{})
package mem
