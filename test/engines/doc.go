// Package engines puts lunard on every engine that has a driver through the same: disks that are copied, libiscsi's suite,
// growth under load, snapshots and clones, a Linux guest, and the engine's own faults, under a load that checks every block that it reads against
// all that it has written (package history). TestEngines is the table: engine by engine, suite by suite. What an engine cannot is in the table with the
// reason (Engine.Fixed, Lacks, Libiscsi), and where the driver says otherwise the test fails.
//
//	go test ./test/engines -run TestEngines/nbdkit/faults            # quick engines, quick suites
//	go test -tags e2e ./test/engines -run 'TestEngines/(rbd|longhorn)'
//
// An engine is one file: an Engine in the list of quick_test.go or of long_e2e_test.go, and what its Start returns. Everything that an engine
// starts is on loopback, in a folder of the test's own, and ends with the test.
//
// It promises nothing to programs outside this module.
package engines
