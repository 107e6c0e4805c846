// Package peers is a module of its own for peers of lunar that are Go programs, so that what they depend on stays out of
// lunar's own go.mod. There is one command for each peer; the benchmarks build and start them.
package peers
