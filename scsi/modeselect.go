package scsi

import (
	"encoding/binary"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// MODE SELECT (6) and (10) (SPC-4). The list is checked as a whole before any of it takes effect. Nothing is saved: a
// restart brings the defaults back.

// Bits of byte 1.
const (
	selectSP  = 0x01
	selectRTD = 0x02
	selectPF  = 0x10
)

// mostModeList bounds a parameter list: every page and a long block descriptor, several times over.
const mostModeList = 512

func prepareModeSelect(lu *LU, c *Command) bool {
	length, lengthAt := uint32(c.CDB[4]), uint16(4)
	if c.CDB[0] == cdb.ModeSelect10 {
		length, lengthAt = uint32(binary.BigEndian.Uint16(c.CDB[7:])), 7
	}
	switch {
	case c.restricted():
		return lu.writeProtected(c)
	case c.CDB[1]&selectSP != 0:
		return c.badField(1, 0) // nothing can be saved
	case c.CDB[1]&selectRTD != 0:
		return c.badField(1, 1)
	case c.CDB[1]&selectPF == 0 && length != 0:
		return c.badField(1, 4) // lists in a format of a vendor's own
	}
	return lu.prepareList(c, length, mostModeList, lengthAt)
}

func executeModeSelect(lu *LU, c *Command) Outcome {
	if c.NoWait && c.Out != 0 {
		return WouldBlock
	}
	if c.Out == 0 {
		return Done
	}
	want := lu.modes
	if !lu.parseModes(c, &want) {
		return Done
	}
	c.Buf = nil
	if want == lu.modes {
		return Done
	}
	flush := want.writeThrough && !lu.modes.writeThrough
	if flush && lu.notReady(c) {
		return Done // what the cache holds could not be made durable
	}
	lu.modes = want
	lu.modesChanged()
	lu.Raise(sense.ModeParametersChanged, c.Nexus)
	if !flush {
		return Done
	}
	// Writes that come from now on are durable when they end. As a reader of the whole medium this one waits for those
	// under way, and then flushes them all.
	c.wholeMedium(lu, readSpan)
	c.plan = flushAfter
	return lu.begin(c)
}

// modesChanged lets lu.modes take effect.
func (lu *LU) modesChanged() {
	lu.protected = lu.readOnly || lu.modes.protect
	lu.through = lu.modes.writeThrough || lu.passing
}

// parseModes reads a parameter list into m; false: c has ended.
func (lu *LU) parseModes(c *Command, m *modes) bool {
	list := c.Buf
	header, long := 4, false
	if c.CDB[0] == cdb.ModeSelect10 {
		header = 8
	}
	if len(list) < header {
		return c.illegal(sense.ParameterListLengthError)
	}
	descriptors := int(list[3])
	if header == 8 {
		descriptors = int(binary.BigEndian.Uint16(list[6:]))
		long = list[4]&0x01 != 0
	}
	if len(list) < header+descriptors {
		return c.illegal(sense.ParameterListLengthError)
	}
	if descriptors != 0 && !lu.sameMedium(list[header:header+descriptors], long) {
		return c.badList(uint16(header), -1) // the format of the medium cannot be changed
	}
	for at := header + descriptors; at < len(list); {
		page := list[at:]
		if len(page) < 2 || len(page) < 2+int(page[1]) {
			return c.illegal(sense.ParameterListLengthError)
		}
		page = page[:2+int(page[1])]
		p := findModePage(page[0] & 0x7f) // PS is reserved here
		if p == nil {
			return c.badList(uint16(at), 6)
		}
		now, may := p.append(lu, nil, pageCurrent), p.append(lu, nil, pageChangeable)
		if len(page) != len(now) {
			return c.badList(uint16(at+1), -1)
		}
		for i := 2; i < len(page); i++ {
			if (page[i]^now[i])&^may[i] != 0 {
				return c.badList(uint16(at+i), -1)
			}
		}
		p.set(lu, m, page)
		at += len(page)
	}
	return true
}

// sameMedium reports whether a block descriptor says what the medium is already; 0 and all ones for the number of blocks mean
// that (SBC-3, mode parameter block descriptors).
func (lu *LU) sameMedium(b []byte, long bool) bool {
	switch {
	case long && len(b) == 16:
		n := binary.BigEndian.Uint64(b)
		return (n == 0 || n == lu.blocks || n == 1<<64-1) && binary.BigEndian.Uint32(b[12:]) == lu.blockSize
	case !long && len(b) == 8:
		n := binary.BigEndian.Uint32(b)
		return (n == 0 || uint64(n) == lu.blocks || n == 1<<32-1) && binary.BigEndian.Uint32(b[4:])&0xffffff == lu.blockSize
	}
	return false
}
