package scsi

import "encoding/binary"

// INQUIRY (SPC-4 §6.6), standard data and vital product data.

const (
	inquiryEVPD   = 0x01
	inquiryCmdDt  = 0x02 // obsolete: answered as the error it is
	inquiryLength = 96   // standard data with eight version descriptors
)

// Peripheral qualifier and device type.
const (
	deviceDisk       = 0x00
	deviceController = 0x0c // storage array controller
	deviceAbsent     = 0x7f // qualifier 011b, type unknown
)

// Version descriptors (SPC-4, version descriptor values).
const (
	versionSAM5  = 0x00a0
	versionISCSI = 0x0960
	versionSPC4  = 0x0460
	versionSBC3  = 0x04c0
)

func prepareInquiry(lu *LU, c *Command) bool {
	if c.CDB[1]&inquiryCmdDt != 0 {
		return c.badField(1, 1)
	}
	if c.CDB[1]&inquiryEVPD == 0 {
		if c.CDB[2] != 0 {
			return c.badField(2, -1)
		}
		return true
	}
	if lu.vpd(c.CDB[2]) == nil {
		return c.badField(2, -1)
	}
	return true
}

func executeInquiry(lu *LU, c *Command) Outcome {
	allocation := uint64(binary.BigEndian.Uint16(c.CDB[3:]))
	if c.CDB[1]&inquiryEVPD == 0 {
		return c.reply(lu.standardInquiry(c), allocation)
	}
	b := append(c.buffer(0), lu.device, c.CDB[2], 0, 0)
	b = lu.vpd(c.CDB[2])(lu, c, b)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-4))
	return c.reply(b, allocation)
}

func (lu *LU) standardInquiry(c *Command) []byte {
	b := c.buffer(inquiryLength)
	b[0] = lu.device
	if lu.removable {
		b[1] = 0x80 // RMB
	}
	b[2] = 0x06              // SPC-4
	b[3] = 0x10 | 0x02       // HISUP, response data format
	b[4] = inquiryLength - 5 // additional length
	b[7] = 0x02              // CMDQUE
	text := b[8:8]
	text = appendPadded(text, lu.id.Vendor, vendorWidth)
	text = appendPadded(text, lu.id.Product, productWidth)
	appendPadded(text, lu.id.Revision, revisionWidth)
	versions := []uint16{versionSAM5, versionISCSI, versionSPC4, versionSBC3}
	if lu.device != deviceDisk {
		versions = versions[:3]
	}
	for i, v := range versions {
		binary.BigEndian.PutUint16(b[58+2*i:], v)
	}
	return b
}
