// Package mutation proves tests: mutants.txt lists ways to break lunar's code, each with the test that must find it. A
// mutant that no test finds is a requirement that nothing holds; one whose text is not in the code any more is a
// failure, too, so that the list keeps up with the code.
//
// The ordinary tests check that each mutant fits the code; running them all takes minutes and is `make mutate`, and
// part of `make e2e`. The code under test is never touched: the go command is given the broken file as an overlay.
//
//	make mutate                                    all of them
//	go test -tags e2e -run /window- ./test/mutation   some
//
// An entry of the list; "holds" is optional, and names a row of docs/rfc7143.md as its annotation does; so is "needs", of what
// the machine must have (see Mutant.Needs):
//
//	mutant: window-ignored
//	file: session/received.go
//	holds: MUST 7143 §4.2.2.1: a command outside the window is ignored
//	test: ./session TestTranscripts/window
//	-	if !sn.InWindow(s.exp, n) {
//	+	if false {
package mutation
