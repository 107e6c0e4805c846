package scsi

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/lunar-iscsi/lunar/backstore"
)

// An identity is what an LU says it is. Set when the LU is made, then read-only.
type identity struct {
	Vendor, Product, Revision, Serial string
	NAA                               uint64 // 0: none
	TargetName                        string
	TargetPortGroup                   uint16
	RelativePort                      uint16 // 0: the portal group tag
}

// Widths of the INQUIRY fields (SPC-4 §6.6) and the bound on a serial number (tgt's own).
const (
	vendorWidth   = 8
	productWidth  = 16
	revisionWidth = 4
	mostSerial    = 36
)

// newIdentity fills cfg's defaults in and checks it. volume is the store's own name for itself.
func newIdentity(cfg *DiskConfig, volume string) (identity, error) {
	id := identity{Vendor: cfg.Vendor, Product: cfg.Product, Revision: cfg.Revision, Serial: cfg.Serial,
		TargetName: cfg.TargetName, TargetPortGroup: cfg.TargetPortGroup, RelativePort: cfg.RelativePort}
	unique := cfg.volume(volume)
	if unique == "" {
		return id, fmt.Errorf("the volume has no identity of its own and none was given")
	}
	sum := sha256.Sum256([]byte("lunar volume\x00" + unique))
	id.NAA = naaLocal<<60 | binary.BigEndian.Uint64(sum[:])>>4
	if id.Serial == "" {
		id.Serial = hex.EncodeToString(sum[8:20])
	}
	id.defaults("VIRTUAL-DISK")
	for _, f := range []struct {
		what, value string
		most        int
	}{{"vendor", id.Vendor, vendorWidth}, {"product", id.Product, productWidth}, {"revision", id.Revision, revisionWidth}, {"serial number", id.Serial, mostSerial}} {
		if len(f.value) > f.most || !printable(f.value) {
			return id, fmt.Errorf("%s %q: want at most %d printable ASCII characters", f.what, f.value, f.most)
		}
	}
	return id, nil
}

// Volume returns what identifies the volume for ever, "" if nothing does: the identity that was given, or the store's own.
func (cfg *DiskConfig) Volume(info backstore.Info) string { return cfg.volume(info.Identity) }

func (cfg *DiskConfig) volume(own string) string {
	if cfg.Identity != "" {
		return cfg.Identity
	}
	return own
}

// naaLocal is the NAA of a locally assigned name (SPC-4, NAA designator formats): 60 bits of our own choice, here of a
// hash, so that no two volumes of any two hosts share one.
const naaLocal = 3

func (id *identity) defaults(product string) {
	for _, f := range []struct {
		field *string
		value string
	}{{&id.Vendor, "LUNAR"}, {&id.Product, product}, {&id.Revision, "0001"}} {
		if *f.field == "" {
			*f.field = f.value
		}
	}
	if id.TargetPortGroup == 0 {
		id.TargetPortGroup = 1
	}
}

// relativePort returns the relative target port identifier of the port that a portal group is.
func (id *identity) relativePort(group uint16) uint16 {
	if id.RelativePort != 0 {
		return id.RelativePort
	}
	return max(group, 1)
}

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }) < 0
}

// appendPadded appends s in an ASCII field of n bytes, cut or filled with blanks (SPC-4 §4.3.1).
func appendPadded(b []byte, s string, n int) []byte {
	for i := range n {
		ch := byte(' ')
		if i < len(s) && s[i] >= 0x20 && s[i] <= 0x7e {
			ch = s[i]
		}
		b = append(b, ch)
	}
	return b
}

// ControllerConfig is what a controller shows of itself. The zero value of a field is its default.
type ControllerConfig struct {
	Vendor   string // cut to 8 characters; "LUNAR"
	Product  string // cut to 16; "Controller"
	Revision string // cut to 4; "0001"
	Serial   string // cut to 36; made from the identity
	// Identity names the controller for ever, say its target's name. Empty: it has no designator of its own.
	Identity string

	TargetName      string
	TargetPortGroup uint16
	RelativePort    uint16
}

// NewController returns what tgt has at LUN 0: a storage array controller (device type 0Ch) without a
// medium, which answers INQUIRY, REPORT LUNS, REQUEST SENSE and TEST UNIT READY.
func NewController(cfg ControllerConfig) *LU {
	id := identity{Vendor: cfg.Vendor, Product: cfg.Product, Revision: cfg.Revision, Serial: cfg.Serial,
		TargetName: cfg.TargetName, TargetPortGroup: cfg.TargetPortGroup, RelativePort: cfg.RelativePort}
	id.defaults("Controller")
	if cfg.Identity != "" {
		sum := sha256.Sum256([]byte("lunar controller\x00" + cfg.Identity))
		id.NAA = naaLocal<<60 | binary.BigEndian.Uint64(sum[:])>>4
		if id.Serial == "" {
			id.Serial = hex.EncodeToString(sum[8:20])
		}
	}
	id.Serial = id.Serial[:min(len(id.Serial), mostSerial)]
	return &LU{ops: controllerOps, id: id, device: deviceController}
}

// NewAbsent returns what answers for a LUN that is not there: INQUIRY with peripheral qualifier 011b and
// device type 1Fh, REPORT LUNS, REQUEST SENSE; all else is LOGICAL UNIT NOT SUPPORTED.
func NewAbsent() *LU {
	lu := &LU{ops: absentOps, device: deviceAbsent}
	lu.id.defaults("")
	return lu
}
