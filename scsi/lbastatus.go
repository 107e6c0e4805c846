package scsi

import (
	"encoding/binary"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// GET LBA STATUS (SBC-3).

// PROVISIONING STATUS.
const (
	statusMapped      = 0
	statusDeallocated = 1
	statusAnchored    = 2
)

const (
	statusHeader     = 8
	statusDescriptor = 16
	// statusWindow bounds what one GET LBA STATUS looks at, in bytes: the commands that write there wait for it.
	statusWindow = 4 << 30
	// mostExtents bounds the runs that the store is asked for.
	mostExtents = 256
)

func prepareLBAStatus(lu *LU, c *Command) bool {
	lba := binary.BigEndian.Uint64(c.CDB[2:])
	if lu.notReady(c) {
		return false
	}
	if lba >= lu.blocks {
		c.fail(sense.Data{Key: sense.IllegalRequest, Code: sense.LBAOutOfRange, HasInfo: true, Info: lba})
		return false
	}
	if !lu.prepareBlocks(c, lba, min(lu.blocks-lba, statusWindow>>lu.blockShift), lu.blocks, 2) {
		return false
	}
	c.span.kind = readSpan
	c.plan = jobStep
	return true
}

func executeLBAStatus(lu *LU, c *Command) Outcome {
	allocation := uint64(binary.BigEndian.Uint32(c.CDB[10:]))
	if !lu.unmap || !lu.info.Has(backstore.CapAllocation) {
		// Nothing is known, or all is provisioned: mapped, which says that there may be data.
		b := c.buffer(statusHeader)
		b = appendStatus(b, c.lba, min(lu.blocks-c.lba, 0xffffffff), statusMapped)
		return lu.replyStatus(c, b, allocation)
	}
	// Room for what the answer can hold, and for neighbours that become one.
	n := min(max((allocation-min(allocation, statusHeader))/statusDescriptor, 1), mostExtents)
	c.Buf = nil
	c.job = &statusJob{extents: make([]backstore.Extent, 0, n)}
	return lu.executeJob(c, false)
}

func appendStatus(b []byte, lba, blocks uint64, status byte) []byte {
	b = binary.BigEndian.AppendUint64(b, lba)
	b = binary.BigEndian.AppendUint32(b, uint32(blocks))
	return append(b, status, 0, 0, 0)
}

func (lu *LU) replyStatus(c *Command, b []byte, allocation uint64) Outcome {
	if lu.notReady(c) {
		return Done
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return c.reply(b, allocation)
}

// A statusJob asks the store once.
type statusJob struct {
	extents []backstore.Extent
	asked   bool
}

func (j *statusJob) next(lu *LU, c *Command) bool {
	if j.asked {
		return false
	}
	j.asked = true
	r, m := &c.req, lu.storeMask
	r.Op, r.Flags = backstore.Allocation, 0
	r.Off = int64(c.lba) << lu.blockShift &^ m
	r.Len = (int64(c.span.last+1)<<lu.blockShift+m)&^m - r.Off
	r.Buf, r.Extents = nil, j.extents
	return true
}

// ended turns the store's extents, whose bounds are bytes, into runs of blocks. A block of which a part may hold data is
// mapped.
func (j *statusJob) ended(lu *LU, c *Command) bool {
	list := c.req.Extents
	c.req.Extents = nil
	b := c.buffer(statusHeader)
	at, seen := c.lba, uint64(0)
	run := func(to uint64, status byte) {
		if to <= at {
			return
		}
		if n := len(b); n > statusHeader && b[n-4] == status {
			binary.BigEndian.PutUint32(b[n-8:], binary.BigEndian.Uint32(b[n-8:])+uint32(to-at))
		} else {
			b = appendStatus(b, at, to-at, status)
		}
		at = to
	}
	end := c.span.last + 1
	for _, e := range list {
		seen = uint64(e.Off+e.Len) >> lu.blockShift
		if e.State == backstore.Mapped {
			continue
		}
		first := min(uint64(e.Off+int64(lu.blockSize)-1)>>lu.blockShift, end)
		last := min(seen, end)
		if first >= last || last <= at {
			continue
		}
		run(first, statusMapped)
		status := byte(statusDeallocated)
		if e.State == backstore.Anchored {
			status = statusAnchored
		}
		run(last, status)
	}
	run(min(max(seen, c.lba+1), end), statusMapped)
	lu.replyStatus(c, b, uint64(binary.BigEndian.Uint32(c.CDB[10:])))
	return true
}
