package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
)

// The file, little endian.
//
//	header   8  magic
//	         4  version
//	         4  CRC32C of the 12 bytes before
//	record   4  length of the payload
//	         8  sequence number
//	         4  CRC32C of the payload
//	         4  CRC32C of the 16 bytes before
//	         …  payload: a change, as JSON
const (
	magic      = "LUNARST\n"
	version    = 1
	headerSize = 16
	recordSize = 20
	maxPayload = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A change is a record's payload.
type change struct {
	All bool                       `json:"all,omitempty"` // it has every object there is
	Set map[string]json.RawMessage `json:"set,omitempty"`
	Del []string                   `json:"del,omitempty"`
}

// newHeader is the beginning of a file.
func newHeader() []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[8:], version)
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b[:12], castagnoli))
	return b
}

// newRecord writes a change down.
func newRecord(seq uint64, c change) ([]byte, error) {
	payload, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("a change of %d bytes, more than a record can have", len(payload))
	}
	b := make([]byte, recordSize, recordSize+len(payload))
	binary.LittleEndian.PutUint32(b, uint32(len(payload)))
	binary.LittleEndian.PutUint64(b[4:], seq)
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(payload, castagnoli))
	binary.LittleEndian.PutUint32(b[16:], crc32.Checksum(b[:16], castagnoli))
	return append(b, payload...), nil
}

// changeOf is what Save is told; sorted, so that one change has one form.
func changeOf(set map[string][]byte) change {
	c := change{Set: map[string]json.RawMessage{}}
	for _, k := range slices.Sorted(maps.Keys(set)) {
		if set[k] == nil {
			c.Del = append(c.Del, k)
		} else {
			c.Set[k] = set[k]
		}
	}
	return c
}

// apply carries c out on objects.
func (c *change) apply(objects map[string][]byte) {
	if c.All {
		clear(objects)
	}
	for _, k := range c.Del {
		delete(objects, k)
	}
	for k, v := range c.Set {
		objects[k] = v
	}
}

// A reading is what a file has.
type reading struct {
	objects map[string][]byte
	seq     uint64 // of the last record
	records int
	size    int64  // up to the end of the last whole record
	torn    string // why what is behind that does not count; empty: nothing is
}

// A fault says what of a file is damaged.
type fault struct {
	newer  bool // not damaged: of another version
	record int  // the first that is, from 1; 0: the header
	off    int64
	why    string
}

// read reads a whole file. Of one that has a fault it returns what is ahead of that.
func read(data []byte) (r reading, f *fault) {
	r.objects = map[string][]byte{}
	if len(data) < headerSize || string(data[:8]) != magic {
		return r, &fault{why: "it does not begin as a state file does"}
	}
	if crc32.Checksum(data[:12], castagnoli) != binary.LittleEndian.Uint32(data[12:]) {
		return r, &fault{off: 8, why: "the checksum of the header is wrong"}
	}
	if v := binary.LittleEndian.Uint32(data[8:]); v != version {
		return r, &fault{newer: true, off: 8, why: fmt.Sprintf("it has version %d, and this lunard knows version %d", v, version)}
	}
	r.size = headerSize
	for off := int64(headerSize); off < int64(len(data)); off = r.size {
		wrong := func(format string, args ...any) (reading, *fault) {
			return r, &fault{record: r.records + 1, off: off, why: fmt.Sprintf(format, args...)}
		}
		rest := data[off:]
		switch {
		case zero(rest):
			r.torn = "only zeroes follow"
			return r, nil
		case len(rest) < recordSize:
			r.torn = "the file ends within the head of a record"
			return r, nil
		case crc32.Checksum(rest[:16], castagnoli) != binary.LittleEndian.Uint32(rest[16:]):
			if lost(data, off, off+recordSize) && !follows(data, off+1, r.seq) {
				r.torn = "the head of a record is in part zeroes"
				return r, nil
			}
			return wrong("the checksum of its head is wrong")
		}
		n, seq := int64(binary.LittleEndian.Uint32(rest)), binary.LittleEndian.Uint64(rest[4:])
		if r.records > 0 && seq != r.seq+1 {
			return wrong("it has number %d, and %d was to come", seq, r.seq+1)
		}
		end := off + recordSize + n
		if end > int64(len(data)) {
			r.torn = "the file ends within a record"
			return r, nil
		}
		payload := rest[recordSize : recordSize+n]
		if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(rest[12:]) {
			if end == int64(len(data)) && lost(data, off, end) {
				r.torn = "a record is in part zeroes"
				return r, nil
			}
			return wrong("the checksum of its payload is wrong")
		}
		var c change
		if err := json.Unmarshal(payload, &c); err != nil {
			return wrong("its checksum is right, and yet it is no change: %v", err)
		}
		if r.records == 0 && !c.All {
			return wrong("the first record has not got all objects")
		}
		c.apply(r.objects)
		r.seq, r.size = seq, end
		r.records++
	}
	if r.records == 0 {
		return r, &fault{record: 1, off: headerSize, why: "there is no record"}
	}
	return r, nil
}

// sector is in what pieces a file system writes, at least: of what it had not written yet a piece is there whole or reads as zeroes.
const sector = 512

// lost reports whether a piece of what has been appended at from, and lies at least in part ahead of to, reads as zeroes.
func lost(data []byte, from, to int64) bool {
	for at := from; at < to; {
		end := min((at/sector+1)*sector, int64(len(data)))
		if zero(data[at:end]) {
			return true
		}
		at = end
	}
	return false
}

// follows reports whether there is the head of a later record than seq anywhere from off on.
func follows(data []byte, off int64, seq uint64) bool {
	for ; off+recordSize <= int64(len(data)); off++ {
		h := data[off : off+recordSize]
		if binary.LittleEndian.Uint64(h[4:]) > seq && crc32.Checksum(h[:16], castagnoli) == binary.LittleEndian.Uint32(h[16:]) {
			return true
		}
	}
	return false
}

func zero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
