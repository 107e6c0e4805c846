package main

import (
	"strings"

	"github.com/lunar-iscsi/lunar/admin/tgtipc"
)

// request is the whole of what is sent. It asks for the reason of a refusal, which tgtd does not notice.
func (c *command) request() []byte {
	h := tgtipc.Header{
		Mode: c.mode, Op: c.op, LLD: c.lld, TID: c.tid, SID: c.sid, LUN: c.lun, CID: c.cid, Host: c.host, DeviceType: c.deviceType,
		Direction: flag(c.outgoing), Force: flag(c.force), Pack: tgtipc.WantReason,
	}
	return h.Append(nil, c.payload())
}

func flag(set bool) uint32 {
	if set {
		return 1
	}
	return 0
}

// payload is what follows the header, without its NUL: the keys that were given, in tgt's order.
func (c *command) payload() string {
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
	if c.deviceType == tgtipc.DeviceTape {
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
	return strings.Join(parts, ",")
}
