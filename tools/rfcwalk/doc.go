// Rfcwalk writes docs/rfc7143.md: the requirements of RFC 7143 (and 7144) that lunar meets, by section, each with
// the test that holds it, the place in the code that makes it so, or the reason why lunar does otherwise.
//
// It reads annotations and knows nothing of what they say. In the comments of a test, a fuzz target or a
// benchmark, and in comments (#) of transcripts in testdata:
//
//	// MUST 7143 §4.2.2.1: a command whose CmdSN is outside the window is ignored, and what
//	// follows on further lines belongs to it.
//
// In session/rfc7143.txt, what no test can hold:
//
//	MUST 7143 §11.2.1.2: the reserved bits of a header that is sent are 0
//	  by construction: session/pdu/header.go: a header starts as zeroes
//	SHOULD 7143 §4.2.7.1: …
//	  deviation: why
//
// and there too which sections were walked to the end, and what of the RFC is not built:
//
//	WALKED 7143 §6, §C: login, text, SendTargets
//	NOT BUILT 7143 §11.16: SNACK
//
// MUST, MUST NOT, SHOULD, SHOULD NOT, MAY, REQUIRED and RECOMMENDED begin an annotation. The text is in our own
// words. Two tests with one text are one row. Of the mutants in test/mutation it reads which rows they prove.
//
//	rfcwalk       checks that the table is what the annotations say
//	rfcwalk -w    writes it
package main
