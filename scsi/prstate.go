package scsi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The saved form of persistent reservations, for APTPL. All numbers are big-endian:
//
//	8  "lunar PR"
//	2  version, 1
//	8  the LU's NAA designator: the state of one volume is not another's
//	1  type of the reservation, 0: none
//	4  its holder, as a place among the registrations; FFFFFFFFh: none, or all
//	4  number of registrations, each:
//	   8 key, 2 relative target port, 2 portal group tag, 6 ISID,
//	   2 length and the initiator's name, 2 length and the target's name
//	4  CRC32C of all before

const (
	prMagic    = "lunar PR"
	prVersion  = 1
	prNoHolder = 0xffffffff
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode returns what has to outlive a restart: nil for nothing.
func (p *persistent) encode(naa uint64) []byte {
	if !p.aptpl || len(p.regs) == 0 {
		return nil
	}
	be := binary.BigEndian
	b := be.AppendUint16([]byte(prMagic), prVersion)
	b = be.AppendUint64(b, naa)
	b = append(b, byte(p.kind))
	holder := uint32(prNoHolder)
	if p.kind != 0 && !p.kind.all() {
		holder = uint32(p.find(p.holder))
	}
	b = be.AppendUint32(b, holder)
	b = be.AppendUint32(b, uint32(len(p.regs)))
	for i := range p.regs {
		r := &p.regs[i]
		b = be.AppendUint64(b, r.key)
		b = be.AppendUint16(b, r.port)
		b = be.AppendUint16(b, r.nexus.PortGroup)
		b = append(b, r.nexus.ISID[:]...)
		for _, name := range []string{r.nexus.Initiator, r.nexus.Target} {
			b = be.AppendUint16(b, uint16(len(name)))
			b = append(b, name...)
		}
	}
	return appendChecksum(b)
}

func appendChecksum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

var errPRCut = errors.New("it is cut off, or says what it cannot")

// decodePersistent reads what encode made. Anything odd is an error: reservations keep hosts from each other's data, so none
// is dropped or made up.
func decodePersistent(b []byte, naa uint64) (p persistent, err error) {
	if len(b) == 0 {
		return p, nil
	}
	be := binary.BigEndian
	body := len(b) - 4
	switch {
	case body < len(prMagic)+2 || !bytes.HasPrefix(b, []byte(prMagic)):
		return p, errors.New("this is no saved state of reservations")
	case be.Uint32(b[body:]) != crc32.Checksum(b[:body], castagnoli):
		return p, errors.New("the checksum is wrong: it is damaged")
	}
	r := prReader{b: b[len(prMagic):body]}
	if v := r.number(2); v != prVersion {
		return p, fmt.Errorf("version %d of the format, want %d", v, prVersion)
	}
	if of := r.number(8); of != naa {
		return p, fmt.Errorf("it belongs to volume naa.%016x, this is naa.%016x", of, naa)
	}
	p.kind = prType(r.number(1))
	holder, n := r.number(4), r.number(4)
	if r.bad || n == 0 || n > maxRegistrations {
		return p, errPRCut
	}
	for range n {
		g := registration{key: r.number(8), port: uint16(r.number(2))}
		g.nexus.PortGroup = uint16(r.number(2))
		copy(g.nexus.ISID[:], r.bytes(6))
		g.nexus.Initiator = string(r.bytes(int(r.number(2))))
		g.nexus.Target = string(r.bytes(int(r.number(2))))
		if r.bad || g.key == 0 || p.find(g.nexus) >= 0 {
			return p, errPRCut
		}
		p.regs = append(p.regs, g)
	}
	switch {
	case len(r.b) != 0, p.kind != 0 && !p.kind.valid():
		return p, errPRCut
	case p.kind == 0 || p.kind.all():
		if holder != prNoHolder {
			return p, errPRCut
		}
	case holder >= n:
		return p, errPRCut
	default:
		p.holder = p.regs[holder].nexus
	}
	p.aptpl = true
	return p, nil
}

// A prReader takes fields off the front of b; bad: there were too few bytes.
type prReader struct {
	b   []byte
	bad bool
}

func (r *prReader) bytes(n int) []byte {
	if n > len(r.b) {
		r.bad, r.b = true, nil
		return make([]byte, n)
	}
	f := r.b[:n]
	r.b = r.b[n:]
	return f
}

// number takes a big-endian number of n bytes, at most 8.
func (r *prReader) number(n int) (v uint64) {
	for _, b := range r.bytes(n) {
		v = v<<8 | uint64(b)
	}
	return v
}
