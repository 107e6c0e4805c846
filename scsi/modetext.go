package scsi

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Mode pages as tgt's tools write them: PAGE:SUBPAGE:LENGTH:BYTE:…, with LENGTH bytes behind the page's header. Numbers are decimal, or
// hexadecimal with 0x, or octal with 0.

// ParseModePage reads such a text into a mode page as MODE SELECT carries it, header included.
func ParseModePage(s string) ([]byte, error) {
	fields := strings.Split(s, ":")
	if len(fields) < 3 {
		return nil, fmt.Errorf("mode page %q: want PAGE:SUBPAGE:LENGTH:BYTE:…", s)
	}
	var page [3]byte
	for i, most := range [...]uint64{0x3e, 0xfe, 0xff} {
		n, err := strconv.ParseUint(fields[i], 0, 8)
		if err != nil || n > most {
			return nil, fmt.Errorf("mode page %q: %s %q: want a number up to %d", s, [...]string{"page", "subpage", "length"}[i], fields[i], most)
		}
		page[i] = byte(n)
	}
	bytes := fields[3:]
	if len(bytes) != int(page[2]) {
		return nil, fmt.Errorf("mode page %q: %d bytes follow, its length says %d", s, len(bytes), page[2])
	}
	b := []byte{page[0], page[2]}
	if page[1] != 0 {
		b = []byte{page[0] | 0x40, page[1], 0, page[2]} // SPF
	}
	for i, f := range bytes {
		n, err := strconv.ParseUint(f, 0, 8)
		if err != nil {
			return nil, fmt.Errorf("mode page %q: byte %d is %q: want a number up to 255", s, i, f)
		}
		b = append(b, byte(n))
	}
	return b, nil
}

// initialModes returns the mode parameters that cfg asks for. Of a page that lunar has, what can be changed of it is honoured; the rest
// of it, and other pages, are for tgt's initiators alone and change nothing.
func (sh *shape) initialModes(cfg *DiskConfig) (modes, error) {
	cache := sh.info.Has(backstore.CapFlush)
	m := modes{descriptorSense: cfg.DescriptorSense, writeThrough: cfg.WriteCache != nil && !*cfg.WriteCache && cache}
	for _, text := range cfg.ModePages {
		page, err := ParseModePage(text)
		if err != nil {
			return m, err
		}
		switch {
		case page[0] == 0x08 && len(page) > 2:
			m.writeThrough = page[2]&0x04 == 0 && cache
		case page[0] == 0x0a && len(page) > 5:
			setControl(nil, &m, page)
		}
	}
	return m, nil
}
