package scsi

import (
	"encoding/binary"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// MODE SENSE (6) and (10) (SPC-4; the block descriptors and the caching page SBC-3).

// Fields of the CDB.
const (
	modeDBD   = 0x08 // byte 1: no block descriptors
	modeLLBAA = 0x10 // byte 1 of (10): long LBA block descriptors are welcome
)

// Page controls, bits 7 and 6 of byte 2.
const (
	pageCurrent = iota
	pageChangeable
	pageDefault
	pageSaved
)

const (
	allPages    = 0x3f
	allSubpages = 0xff
)

// A modePage appends a page as a page control asks for it: values, or the changeable bits; set takes over what a page that was
// checked says of these.
type modePage struct {
	code   byte
	append func(lu *LU, b []byte, control byte) []byte
	set    func(lu *LU, m *modes, page []byte)
}

var modePages = [...]modePage{
	{0x08, cachingPage, setCaching},
	{0x0a, controlPage, setControl},
}

// modes are the parameters that MODE SELECT changes, shared by all nexuses. The zero value is the default of a disk that is not configured otherwise.
type modes struct {
	writeThrough    bool // WCE is off though there is a cache: a write is durable when it ends
	protect         bool // SWP
	descriptorSense bool // D_SENSE
	// TAS is 0: commands that another nexus aborts are not answered. It is 1 by default: an initiator that is not told waits for its
	// time-out, half a minute with Linux, and then resets the unit for everybody. LIO has the same default.
	silentAbort bool
}

// FormatSense returns sense data in the format that D_SENSE asks for: b itself, or its like.
func (lu *LU) FormatSense(b []byte) []byte {
	if !lu.modes.descriptorSense {
		return b
	}
	d, err := sense.Parse(b)
	if err != nil {
		return b
	}
	return d.AppendDescriptor(nil)
}

func findModePage(code byte) *modePage {
	for i := range modePages {
		if modePages[i].code == code {
			return &modePages[i]
		}
	}
	return nil
}

func prepareModeSense(_ *LU, c *Command) bool {
	page, subpage := c.CDB[2]&0x3f, c.CDB[3]
	if c.CDB[2]>>6 == pageSaved {
		return c.illegal(sense.SavingNotSupported)
	}
	if subpage != 0 && subpage != allSubpages {
		return c.badField(3, -1) // no page here has subpages
	}
	if page == allPages {
		return true
	}
	if findModePage(page) == nil {
		return c.badField(2, 5)
	}
	return true
}

func executeModeSense(lu *LU, c *Command) Outcome {
	six := c.CDB[0] == cdb.ModeSense6
	page, control := c.CDB[2]&0x3f, c.CDB[2]>>6
	device := lu.deviceSpecific()
	if lu.protects(c) {
		device |= 0x80 // WP, of the nexus
	}
	b := c.buffer(8)
	if six {
		b = b[:4]
	}
	descriptors := len(b)
	if c.CDB[1]&modeDBD == 0 {
		b = lu.appendBlockDescriptor(b, !six && c.CDB[1]&modeLLBAA != 0)
	}
	descriptors = len(b) - descriptors
	for i := range modePages {
		if page == allPages || page == modePages[i].code {
			b = modePages[i].append(lu, b, control)
		}
	}
	if six {
		b[0] = byte(len(b) - 1)
		b[2], b[3] = device, byte(descriptors)
		return c.reply(b, uint64(c.CDB[4]))
	}
	binary.BigEndian.PutUint16(b, uint16(len(b)-2))
	b[3] = device
	if descriptors == 16 {
		b[4] = 0x01 // LONGLBA
	}
	binary.BigEndian.PutUint16(b[6:], uint16(descriptors))
	return c.reply(b, uint64(binary.BigEndian.Uint16(c.CDB[7:])))
}

// deviceSpecific returns the DEVICE-SPECIFIC PARAMETER of a mode parameter header.
func (lu *LU) deviceSpecific() (b byte) {
	if lu.protected {
		b |= 0x80 // WP
	}
	if lu.fua != noFUA {
		b |= 0x10 // DPOFUA
	}
	return b
}

// appendBlockDescriptor appends the short or the long LBA mode parameter block descriptor.
func (lu *LU) appendBlockDescriptor(b []byte, long bool) []byte {
	if long {
		b = binary.BigEndian.AppendUint64(b, lu.blocks)
		return binary.BigEndian.AppendUint64(b, uint64(lu.blockSize))
	}
	b = binary.BigEndian.AppendUint32(b, uint32(min(lu.blocks, 0xffffffff)))
	return binary.BigEndian.AppendUint32(b, lu.blockSize)
}

// Caching. WCE says whether the store has a volatile cache; where it has one, it can be bypassed.
func cachingPage(lu *LU, b []byte, control byte) []byte {
	n := len(b)
	b = append(b, 0x08, 0x12)
	b = append(b, make([]byte, 0x12)...)
	if !lu.info.Has(backstore.CapFlush) || control == pageCurrent && lu.modes.writeThrough ||
		control == pageDefault && lu.initial.writeThrough || control == pageChangeable && lu.readOnly {
		return b
	}
	b[n+2] |= 0x04 // WCE
	return b
}

func setCaching(lu *LU, m *modes, page []byte) {
	m.writeThrough = page[2]&0x04 == 0 && lu.info.Has(backstore.CapFlush)
}

// busyTimeout is the longest time for which BUSY may be answered, in units of 100 ms: what an engine may be
// away without being given up.
const busyTimeout = 600

// Control: one task set for all nexuses (TST 0), restricted reordering (QUEUE ALGORITHM MODIFIER 0: the range index keeps
// overlapping commands in order), no command is aborted for another's error (QERR 0), a unit attention ends when it has been told
// (UA_INTLCK_CTRL 0). D_SENSE, SWP and TAS can be changed.
func controlPage(lu *LU, b []byte, control byte) []byte {
	n := len(b)
	b = append(b, 0x0a, 0x0a)
	b = append(b, make([]byte, 0x0a)...)
	m := lu.modes
	if control == pageDefault {
		m = lu.initial
	}
	if control == pageChangeable || m.descriptorSense {
		b[n+2] |= 0x04 // D_SENSE
	}
	if control == pageChangeable || m.protect {
		b[n+4] |= 0x08 // SWP
	}
	if control == pageChangeable || !m.silentAbort {
		b[n+5] |= 0x40 // TAS
	}
	if control != pageChangeable {
		binary.BigEndian.PutUint16(b[n+8:], busyTimeout)
	}
	return b
}

func setControl(_ *LU, m *modes, page []byte) {
	m.descriptorSense, m.protect, m.silentAbort = page[2]&0x04 != 0, page[4]&0x08 != 0, page[5]&0x40 == 0
}
