// Package guest boots small Linux machines for tests, whose kernel is an iSCSI initiator (open-iscsi) of
// the disks that lunard serves on the host's loopback. The kernel is user-mode Linux, an ordinary process, with
// libslirp for its network; or, with LUNAR_GUEST=qemu or Options.Backend, Debian's own in a virtual machine of
// QEMU. None of this needs root, virtualisation or a network device; KVM is used where it works. The same scripts
// run in both, from the same root file system.
//
// It knows how a guest is started, told what to run, and ended. What runs in it are shell scripts that tests
// hand over; prelude.sh has the functions that these share. It must not import what lunard is made of.
//
//	d := daemon.StartAt(t, "127.0.0.2:0", daemon.Export("disk", "mem:?size=64M"))
//	g := guest.Boot(t)
//	out := g.Run(t, `login `+d.Addr+` `+daemon.Prefix+`disk && dd if="$(disk `+daemon.Prefix+`disk)" of=/dev/null bs=1M`)
//	g.Shutdown(t)
//
// The guest reaches the host's 127.0.0.2 and above under these very addresses, so a portal that discovery
// names is one that it can log in to; the host's 127.0.0.1 is 10.0.2.2.
//
// A guest belongs to its test: it is killed, with all its processes, when the test ends. Its root file system
// is in memory above an image that all guests share (scripts/test-deps guest makes it), so nothing of a guest
// outlives it but what it wrote to lunard's disks.
//
// It promises nothing to programs outside this module.
package guest
