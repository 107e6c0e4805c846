package layering

import "strings"

// Module is this module's path.
const Module = "github.com/lunar-iscsi/lunar"

// maxLines is the length of a source file from which on it is two things.
const maxLines = 600

// A layer says what the packages at and below a path may import. The longest path that fits a package counts.
type layer struct {
	path string // below Module; "a/b" alone, "a/..." with everything below
	// may are the packages of ours that it imports besides those below itself where path ends in
	// "/...": forms as of path. "*" is everything but tests.
	may []string
	// third are the modules of others that it imports, by the beginning of their paths.
	third []string
	// protocol: a state machine without I/O, clock and goroutines.
	protocol bool
	// core: logs through the Logger it is given.
	core bool
}

const (
	xsys       = "golang.org/x/sys"
	xcrypto    = "golang.org/x/crypto"
	cobra      = "github.com/spf13/"
	logrus     = "github.com/sirupsen/logrus"
	grpc       = "google.golang.org/"
	prometheus = "github.com/prometheus/"
	gotgt      = "github.com/gostor/gotgt"
	goceph     = "github.com/ceph/go-ceph"
	goyaml     = "github.com/goccy/go-yaml"
	systemd    = "github.com/coreos/go-systemd/"
)

var layers = []layer{
	{path: "scsi/sam", core: true},
	{path: "scsi/cdb", core: true},
	{path: "scsi/sense", core: true},
	{path: "session/pdu", may: []string{"scsi/sam", "scsi/cdb"}, protocol: true, core: true},
	{path: "session/login", may: []string{"session/pdu"}, protocol: true, core: true},
	{path: "session", may: []string{"session/pdu", "session/login", "scsi/sam"}, protocol: true, core: true},
	{path: "session/initiator/...", may: []string{"session/pdu", "session/login", "scsi/sam", "scsi/cdb", "scsi/sense"}, third: []string{xsys}, core: true},
	{path: "scsi", may: []string{"scsi/sam", "scsi/cdb", "scsi/sense", "backstore"}, core: true},
	{path: "backstore", core: true},
	{path: "backstore/backstoretest", may: []string{"backstore", "backstore/faulty"}, third: []string{xsys}, core: true},
	{path: "backstore/gotgt", may: []string{"backstore"}, third: []string{gotgt, xsys}, core: true},
	{path: "backstore/rbd/...", may: []string{"backstore"}, third: []string{goceph, xsys}, core: true},
	// What is below a driver is part of it.
	{path: "backstore/curve/...", may: []string{"backstore"}, third: []string{grpc, xsys}, core: true},
	{path: "backstore/longhorn/...", may: []string{"backstore"}, third: []string{grpc, xsys}, core: true},
	{path: "backstore/...", may: []string{"backstore"}, third: []string{xsys}, core: true},
	{path: "target/evloop", third: []string{xsys}, core: true},
	{path: "target/...", may: []string{"session/...", "scsi/...", "backstore", "target/evloop"}, third: []string{xsys}, core: true},
	{path: "admin/spec", may: []string{"session/login", "scsi/sam"}},
	{path: "admin/...", may: []string{"target", "backstore", "session", "session/login", "scsi", "scsi/sam"}, third: []string{logrus, grpc, prometheus, goyaml, xsys}},
	{path: "cmd/...", may: []string{"*"}, third: []string{gotgt, cobra, logrus, grpc, prometheus, systemd, xsys}},
	{path: "test/history"}, // for tests of every layer
	{path: "test/...", may: []string{"*", "test/..."}, third: []string{cobra, logrus, grpc, prometheus, gotgt, goceph, xsys, xcrypto}},
	{path: "tools/...", may: []string{"*", "test/..."}, third: []string{xsys}},
}

// fits reports whether the package at path below Module is one that pattern names.
func fits(pattern, path string) bool {
	switch {
	case pattern == "*":
		return !fits("test/...", path) && !fits("tools/...", path)
	case strings.HasSuffix(pattern, "/..."):
		root := strings.TrimSuffix(pattern, "/...")
		return path == root || strings.HasPrefix(path, root+"/")
	}
	return path == pattern
}

// layerOf is the layer of the package at path below Module, or nil.
func layerOf(path string) (best *layer) {
	for i := range layers {
		l := &layers[i]
		if fits(l.path, path) && (best == nil || len(l.path) > len(best.path)) {
			best = l
		}
	}
	return best
}

// mayImport reports whether a package of the layer may import the package imp; what is of the standard
// library is allowed but for what the layer's kind rules out.
func (l *layer) mayImport(imp string) bool {
	if own, ok := ours(imp); ok {
		for _, p := range l.may {
			if fits(p, own) {
				return true
			}
		}
		return strings.HasSuffix(l.path, "/...") && fits(l.path, own) && (l.path != "backstore/...")
	}
	if first, _, _ := strings.Cut(imp, "/"); strings.Contains(first, ".") {
		for _, p := range l.third {
			if strings.HasPrefix(imp, p) {
				return true
			}
		}
		return false
	}
	if l.core && (imp == "log" || strings.HasPrefix(imp, "log/")) {
		return false
	}
	if l.protocol {
		switch imp {
		case "net", "os", "syscall", "sync", "sync/atomic", "context", "math/rand", "math/rand/v2":
			return false
		}
	}
	return true
}

// ours is a package's path below Module.
func ours(imp string) (path string, ok bool) {
	if imp == Module {
		return "", true
	}
	return strings.CutPrefix(imp, Module+"/")
}
