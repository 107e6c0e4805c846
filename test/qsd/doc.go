// Package qsd serves disks by qemu-storage-daemon, QEMU's block layer without a machine: NBD exports of whatever QEMU opens (raw files, qcow2,
// RBD) on a unix socket, until the test ends. It can be killed, frozen and started again, and told by QMP to change a disk's size.
//
// It knows the daemon's command line and as much of QMP as that takes, and nothing of what is done with the disks.
//
//	s := qsd.Start(t, qsd.Config{Disks: []qsd.Disk{{Name: "d", Driver: "qcow2", File: image}}})
//	… s.URI("d") …           // nbd+unix:///d?socket=…
//	s.Kill(); s.Restart(t)
//	s.Resize(t, "d", 2<<30)
//
// It promises nothing to programs outside this module.
package qsd
