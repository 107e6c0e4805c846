// Package hostile tests what one peer can do to the others. In each case somebody does what no initiator should, on a target
// on which two others go on: they write blocks, read them back and compare them. Neither may see an error, lose its
// connection or stand still; the memory for data stays within its budget, nothing of lunar panics, and the counter that an
// administrator would look at has moved.
//
// Most cases run against a target.Server in this process, whose counters and limits they need; those about memory, descriptors and
// logs against a lunard. With the build tag e2e there are more peers, for longer.
//
// It promises nothing to programs outside this module.
package hostile
