// Package libiscsi runs libiscsi's conformance suite (iscsi-test-cu) against lunard and judges each of
// its tests by itself, since the tool's own exit status and summary do not: it counts skipped tests as
// passed, and ends with status 0 when it ran nothing.
//
// expected.txt says of every test that the tool lists what is to come of it; a test that it lists and the
// file does not, or the other way round, is a failure. One process runs one test, within a time limit.
// After a test that failed or hung the target is started afresh.
//
// libiscsi's other tools look at what a configuration shows an initiator and where it sends it, and the suite's test of a
// write-protected disk is run as an initiator that may only read: on a server in the test's own process.
//
// LUNAR_TEST_URL names a LUN (1023 MiB, thin, 512-byte blocks) of a server that is already up, to be
// tested in place of lunard's: so that it is known what other targets do.
//
// It promises nothing to programs outside this module.
package libiscsi
