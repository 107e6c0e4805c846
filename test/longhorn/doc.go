// Package longhorn starts Longhorn engines for tests: a controller with the frontend "socket" and its replicas, as the processes that
// Longhorn itself runs on a node, on free ports and in a folder of their own. They can be killed, frozen and started again, and
// replicas rebuilt.
//
//	e := longhorn.Start(t, longhorn.Config{Size: 64 << 20})
//	st := open(e.URI(""))
//	e.KillReplica(0)
//
// The engine is longhorn-engine v1.12.0, built from its module by scripts/test-deps longhorn into the cache: that needs a Go of at least
// the version that its go.mod asks for. Its directory for sockets is fixed, so each controller runs in a mount namespace of its own,
// in which that is a folder of the test's; outside, the socket is reached by the option socket=. No root is needed where
// unprivileged user namespaces are allowed; otherwise the tests that start engines are skipped (under LUNAR_CI: fail).
//
// The package promises nothing to other programs.
package longhorn
