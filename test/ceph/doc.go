// Package ceph starts small Ceph clusters for tests: monitors and OSDs of Debian's packages, as scripts/test-deps unpacks them, on loopback
// and free ports, in a folder of their own, without cephx, until the test ends.
//
// It knows Ceph by its programs, its configuration file and the commands of its monitors, and nothing of what is kept in the cluster; it must not import what
// lunard is made of. Commands go through a program of its own (./monitor), built with librados on first use: Ceph's
// own command line is Python and takes half a second a call. There is no manager: images, snapshots, watches and recovery
// need none, but `ceph -s` then knows nothing of placement groups. WaitClean asks these themselves.
//
//	c := ceph.Start(t, ceph.Config{})                  // three OSDs in memory, pool rbd with three copies of which two must be there
//	out, err := c.RBD("create", "--size=64M", "rbd/disk")
//	uri := "rbd:rbd/disk?conf=" + c.Conf()
//	err = c.KillOSD(1)                                 // or FreezeOSD and ThawOSD
//	err = c.StartOSD(1)
//	err = c.WaitClean(time.Minute)
//
// A cluster in memory starts in some two seconds, one on disk (Config.Bluestore) in six. An OSD in memory that is killed comes
// back empty and is filled by the others; what has to survive the end of all of them needs Bluestore.
//
// It promises nothing to programs outside this module.
package ceph
