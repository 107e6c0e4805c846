// Package nbdkit serves disks for lunard, or a guest's machine, to stand in front of: nbdkit's memory or file plugin on
// a unix socket, through its filters (a delay, errors, a cache), until the test ends.
//
// It knows nbdkit's command line and nothing of what is done with the disk.
//
//	uri := nbdkit.Start(t, "64M", []string{"delay"}, "rdelay=20ms") // nbd+unix:///?socket=…
//
// It promises nothing to programs outside this module.
package nbdkit
