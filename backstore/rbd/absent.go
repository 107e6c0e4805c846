//go:build !rbd || !cgo

package rbd

import "github.com/lunar-iscsi/lunar/backstore"

// Driver returns the driver of the scheme "rbd", which is not in this build.
func Driver() backstore.Driver {
	return backstore.Driver{Scheme: "rbd", Help: driverHelp, Options: optionNames(), Key: key,
		Absent: "it needs Ceph's C library: install a C compiler, librbd-dev and librados-dev, build lunard with `make build-rbd`, and have librbd1 and librados2 where it runs"}
}
