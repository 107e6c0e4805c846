package scsi

import (
	"encoding/binary"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
)

// plainModes is what MODE SELECT has set, by the words of SPC-4 and SBC-3 and nothing of the code: the write cache where the store has one,
// sense data by descriptors, write protection, silence about commands that another nexus aborts.
type plainModes struct {
	cache                       bool // there is one to be switched off
	through, descriptor, locked bool
	silent                      bool
}

// check compares with what lu says.
func (m *plainModes) check(t *testing.T, lu *LU, after string) {
	if want := (modes{writeThrough: m.through, protect: m.locked, descriptorSense: m.descriptor, silentAbort: m.silent}); lu.modes != want || lu.protected != m.locked {
		t.Fatalf("%s: the modes are %+v, protected %v, want %+v", after, lu.modes, lu.protected, want)
	}
}

// sel is MODE SELECT (6) or (10) with the parameter list out: how it ends, and what it does.
func (m *plainModes) sel(b, out []byte) (string, func()) {
	const illegal, blocks, blockSize = "05", fuzzSize / 512, 512
	ten := b[0] == cdb.ModeSelect10
	n, header := int(b[4]), 4
	if ten {
		n, header = int(binary.BigEndian.Uint16(b[7:])), 8
	}
	saves, vendor := b[1]&0x01 != 0, b[1]&0x10 == 0
	if b[cdb.Len(b[0])-1]&cdb.NACA != 0 || saves || b[1]&0x02 != 0 || vendor && n != 0 || n > mostModeList || len(out) < n {
		return illegal, nil
	}
	if n == 0 {
		return "good", func() {}
	}
	list := out[:n]
	if n < header {
		return illegal, nil
	}
	size, long := int(list[3]), false
	if ten {
		size, long = int(binary.BigEndian.Uint16(list[6:])), list[4]&1 != 0
	}
	if size > n-header {
		return illegal, nil
	}
	d, pages := list[header:][:size], list[header+size:]
	switch {
	case size == 0:
	case size == 8 && !long:
		count := binary.BigEndian.Uint32(d)
		if count != 0 && count != blocks && count != 1<<32-1 || binary.BigEndian.Uint32(d[4:])<<8 != blockSize<<8 {
			return illegal, nil
		}
	case size == 16 && long:
		count := binary.BigEndian.Uint64(d)
		if count != 0 && count != blocks && count != 1<<64-1 || binary.BigEndian.Uint32(d[12:]) != blockSize {
			return illegal, nil
		}
	default:
		return illegal, nil
	}
	next := *m
	for len(pages) > 0 {
		if len(pages) < 2 || len(pages) < 2+int(pages[1]) {
			return illegal, nil
		}
		page := append([]byte(nil), pages[:2+int(pages[1])]...)
		pages = pages[len(page):]
		switch {
		case page[0]&0x7f == 0x08 && len(page) == 20:
			on := page[2]&0x04 != 0
			if !m.cache && on {
				return illegal, nil
			}
			next.through = m.cache && !on
			page[2] &^= 0x04
		case page[0]&0x7f == 0x0a && len(page) == 12:
			next.descriptor, next.locked = page[2]&0x04 != 0, page[4]&0x08 != 0
			page[2] &^= 0x04
			page[4] &^= 0x08
			next.silent = page[5]&0x40 == 0
			page[5] &^= 0x40
			if binary.BigEndian.Uint16(page[8:]) != busyTimeout {
				return illegal, nil
			}
			page[8], page[9] = 0, 0
		default:
			return illegal, nil
		}
		for _, v := range page[2:] {
			if v != 0 {
				return illegal, nil // nothing else can be changed
			}
		}
	}
	return "good", func() { *m = next }
}
