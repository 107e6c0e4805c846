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

	volume string // what the volume's identity is
	tgt    bool   // VPD pages 80h and 83h are tgt's: see tgtnames.go
	tid    uint32
	lun    uint16
	scsiID string
}

// Widths of the INQUIRY fields (SPC-4 §6.6) and the bound on a serial number (tgt's own).
const (
	vendorWidth   = 8
	productWidth  = 16
	revisionWidth = 4
	mostSerial    = 36
)

// newIdentity fills cfg's defaults in and checks it. volume is the store's own name for itself. naa is the volume's, whatever
// is shown.
func newIdentity(cfg *DiskConfig, volume string) (id identity, naa uint64, err error) {
	id = identity{Vendor: cfg.Vendor, Product: cfg.Product, Revision: cfg.Revision, Serial: cfg.Serial,
		TargetName: cfg.TargetName, TargetPortGroup: cfg.TargetPortGroup, RelativePort: cfg.RelativePort, volume: cfg.volume(volume)}
	if id.volume == "" {
		return id, 0, fmt.Errorf("the volume has no identity of its own and none was given")
	}
	sum := sha256.Sum256([]byte("lunar volume\x00" + id.volume))
	naa = naaLocal<<60 | binary.BigEndian.Uint64(sum[:])>>4
	id.NAA = naa
	if cfg.TgtNaming {
		if err := id.nameAsTgt(cfg.TID, cfg.LUN, cfg.SCSIID); err != nil {
			return id, 0, err
		}
	}
	if id.Serial == "" {
		id.Serial = hex.EncodeToString(sum[8:20])
	}
	id.defaults("VIRTUAL-DISK")
	for _, f := range []struct {
		what, value string
		most        int
	}{{"vendor", id.Vendor, vendorWidth}, {"product", id.Product, productWidth}, {"revision", id.Revision, revisionWidth}, {"serial number", id.Serial, mostSerial}, {"SCSI ID", cfg.SCSIID, mostSerial}} {
		if len(f.value) > f.most || !printable(f.value) {
			return id, 0, fmt.Errorf("%s %q: want at most %d printable ASCII characters", f.what, f.value, f.most)
		}
	}
	return id, naa, nil
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
