// Command lunard is the daemon: it serves volumes as iSCSI disks.
//
// It holds flags, wiring and signals; what is served and how is in package target and below.
package main
