// Package daemon runs lunard for tests: builds it once, starts it on a free loopback port, waits until
// it serves, keeps its log and sees to it that it ends.
//
// It knows lunard by its command line and exit status only, as an administrator does; it must not import
// what lunard is made of.
//
//	d := daemon.Start(t, daemon.Export("disk", "mem:?size=64M"))
//	url := d.URL("disk", 1) // iscsi://127.0.0.1:PORT/iqn.2026-11.io.lunar:disk/1
//	…
//	d.Stop(t) // SIGTERM; anything but exit status 0 fails the test
//
// The daemon belongs to the test: it is killed when the test ends without Stop or Kill. LUNAR_BIN names a
// lunard to run instead of building one; LUNAR_RACE=1 builds it with the race detector.
//
// It promises nothing to programs outside this module.
package daemon
