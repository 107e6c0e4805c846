package scsi

import (
	"encoding/binary"
	"fmt"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Vital product data (SPC-4; pages B0h and above SBC-3). A page function appends the page's contents behind its four header
// bytes, whose length the caller fills in.

type vpdPage func(lu *LU, c *Command, b []byte) []byte

// vpdCodes are the pages of a disk, ascending as page 00h lists them. The controller has the first
// three, an absent LU the first.
var vpdCodes = [...]byte{0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2}

// vpdList returns the pages that the LU has.
func (lu *LU) vpdList() []byte {
	switch lu.device {
	case deviceDisk:
		return vpdCodes[:]
	case deviceController:
		return vpdCodes[:3]
	}
	return vpdCodes[:1]
}

// vpd returns the page of the given code, or nil.
func (lu *LU) vpd(code byte) vpdPage {
	for _, have := range lu.vpdList() {
		if have != code {
			continue
		}
		switch code {
		case 0x00:
			return vpdSupported
		case 0x80:
			return vpdSerial
		case 0x83:
			return vpdIdentification
		case 0x86:
			return vpdExtended
		case 0xb0:
			return vpdLimits
		case 0xb1:
			return vpdCharacteristics
		case 0xb2:
			return vpdProvisioning
		}
	}
	return nil
}

func vpdSupported(lu *LU, _ *Command, b []byte) []byte { return append(b, lu.vpdList()...) }

func vpdSerial(lu *LU, _ *Command, b []byte) []byte {
	if lu.id.tgt {
		return lu.id.appendTgtSerial(b)
	}
	return appendPadded(b, lu.id.Serial, len(lu.id.Serial))
}

// Fields of a designation descriptor (SPC-4, Device Identification VPD page).
const (
	codeBinary = 1
	codeASCII  = 2
	codeUTF8   = 3

	ofUnit   = 0x00 // ASSOCIATION, in place
	ofPort   = 0x10
	ofDevice = 0x20

	typeT10          = 1
	typeNAA          = 3
	typeRelativePort = 4
	typePortGroup    = 5
	typeSCSIName     = 8

	protocolISCSI = 0x50 // PROTOCOL IDENTIFIER, in place
	piv           = 0x80
)

// designator appends one designation descriptor.
func designator(b []byte, code, association, kind byte, value []byte) []byte {
	if association != ofUnit {
		code |= protocolISCSI
		association |= piv
	}
	b = append(b, code, association|kind, 0, byte(len(value)))
	return append(b, value...)
}

// scsiName returns a SCSI name string: UTF-8, ended by a zero, filled up to a multiple of four (SPC-4, SCSI name string designator format).
func scsiName(s string) []byte {
	b := append([]byte(s), 0)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// Page 83h: which unit, which port, which target. The first two are the unit's, whatever the path.
func vpdIdentification(lu *LU, c *Command, b []byte) []byte {
	id := &lu.id
	if id.tgt {
		return id.appendTgtDesignators(b)
	}
	if id.Serial != "" {
		b = designator(b, codeASCII, ofUnit, typeT10, append(appendPadded(nil, id.Vendor, vendorWidth), id.Serial...))
	}
	if id.NAA != 0 {
		b = designator(b, codeBinary, ofUnit, typeNAA, binary.BigEndian.AppendUint64(nil, id.NAA))
	}
	name, portGroup, port := id.TargetName, uint16(0), id.relativePort(0)
	if n := c.Nexus; n != nil {
		port = n.RelativePort
		if n.Nexus.Target != "" {
			name, portGroup = n.Nexus.Target, n.Nexus.PortGroup
		}
	}
	b = designator(b, codeBinary, ofPort, typeRelativePort, binary.BigEndian.AppendUint16([]byte{0, 0}, port))
	b = designator(b, codeBinary, ofPort, typePortGroup, binary.BigEndian.AppendUint16([]byte{0, 0}, id.TargetPortGroup))
	if name == "" || len(name) > maxName {
		return b
	}
	if portGroup != 0 {
		// RFC 7143 §4.4.2: the name of a SCSI port is the iSCSI name, ",t," and the portal group tag.
		b = designator(b, codeUTF8, ofPort, typeSCSIName, scsiName(fmt.Sprintf("%s,t,0x%04x", name, portGroup)))
	}
	return designator(b, codeUTF8, ofDevice, typeSCSIName, scsiName(name))
}

// maxName is the length of the longest iSCSI name in bytes (RFC 7143 §4.2.7).
const maxName = 223

// Page 86h, extended INQUIRY data: the task attributes, and whether there is a volatile cache.
func vpdExtended(lu *LU, _ *Command, b []byte) []byte {
	b = append(b, make([]byte, 0x3c)...)
	b[5] = 0x04 | 0x02 | 0x01 // HEADSUP, ORDSUP, SIMPSUP
	if lu.info.Has(backstore.CapFlush) {
		b[6] = 0x01 // V_SUP
	}
	return b
}

// Page B0h, block limits: 3Ch bytes of contents. What belongs to commands that are not offered is 0.
func vpdLimits(lu *LU, _ *Command, b []byte) []byte {
	b = append(b, make([]byte, 0x3c)...)
	binary.BigEndian.PutUint16(b[6:], lu.granularity)
	binary.BigEndian.PutUint32(b[8:], lu.maxBlocks) // MAXIMUM TRANSFER LENGTH
	binary.BigEndian.PutUint32(b[12:], lu.optimal)
	lu.limits(b)
	return b
}

// Page B1h, block device characteristics.
func vpdCharacteristics(lu *LU, _ *Command, b []byte) []byte {
	b = append(b, make([]byte, 0x3c)...)
	binary.BigEndian.PutUint16(b[4:], lu.rotation) // 1: does not rotate; 0: not reported
	return b
}
