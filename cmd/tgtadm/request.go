package main

import (
	"encoding/binary"
	"strings"
)

// headerSize is the length of a request's header on the management socket; lldSize that of the driver's name in it.
const (
	headerSize = 120
	lldSize    = 64
)

// wantReason, in the header's field "pack" that tgtd never reads, asks lunard for the reason of a refusal (admin/tgtipc).
const wantReason = 0x726e756c

// header is the request's header, in this machine's byte order, as tgtd reads it.
func (c *command) header(payload int) []byte {
	b := make([]byte, headerSize)
	n := binary.NativeEndian
	n.PutUint32(b[0:], uint32(c.mode))
	n.PutUint32(b[4:], uint32(c.op))
	copy(b[8:8+lldSize], c.lld)
	n.PutUint32(b[72:], uint32(headerSize+payload))
	n.PutUint32(b[76:], uint32(c.tid))
	n.PutUint64(b[80:], c.sid)
	n.PutUint64(b[88:], c.lun)
	n.PutUint32(b[96:], c.cid)
	n.PutUint32(b[100:], c.host)
	n.PutUint32(b[104:], uint32(c.deviceType))
	n.PutUint32(b[108:], flag(c.outgoing))
	n.PutUint32(b[112:], wantReason)
	n.PutUint32(b[116:], flag(c.force))
	return b
}

func flag(set bool) uint32 {
	if set {
		return 1
	}
	return 0
}

// payload is what follows the header: the keys that were given, in tgt's order, and a NUL; nothing when none was.
func (c *command) payload() []byte {
	var parts []string
	add := func(key string, v *string) {
		if v != nil {
			parts = append(parts, key+*v)
		}
	}
	if c.name != nil {
		v := "(null)" // what C prints of the value that is not there, where no check asks for one
		if c.value != nil {
			v = *c.value
		}
		parts = append(parts, *c.name+"="+v)
	}
	add("path=", c.path)
	if c.deviceType == typeTape {
		parts = append(parts, "bstype=ssc") // whatever was asked for
	} else {
		add("bstype=", c.bstype)
	}
	add("bsopts=", c.bsopts)
	add("bsoflags=", c.bsoflags)
	add("blocksize=", c.blocksize)
	add("targetname=", c.targetname)
	add("initiator-address=", c.address)
	add("initiator-name=", c.iqn)
	add("user=", c.user)
	add("password=", c.password)
	if c.params != nil {
		parts = append(parts, "targetOps "+*c.params+",")
	}
	if c.portal != nil {
		parts = append(parts, "portalOps "+*c.portal+",")
	}
	if len(parts) == 0 {
		return nil
	}
	return append([]byte(strings.Join(parts, ",")), 0)
}
