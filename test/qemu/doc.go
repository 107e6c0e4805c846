// Package qemu drives lunard with initiators that are not ours: qemu-img and qemu-io over libiscsi, and
// libiscsi's own small tools; on a file, in memory, and on an nbdkit disk behind lunard, also one that is
// slow or fails.
//
// It knows disks by what is on them; it must not import what lunard is made of.
//
// LUNAR_TEST_URL names a LUN of 64 MiB of a server that is already up, to be tested in place of lunard's
// file, so that it is known what other targets do; the tests that need lunard itself run as ever.
//
// It promises nothing to programs outside this module.
package qemu
