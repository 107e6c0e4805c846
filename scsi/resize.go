package scsi

import (
	"fmt"

	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// Online resize. The LU alone says what capacity initiators see; a store may be larger for a while.

// Granularity returns what the size of the disk is a multiple of, in bytes.
func (lu *LU) Granularity() int64 { return max(int64(lu.blockSize), lu.storeMask+1) }

// Resize makes size bytes the capacity of a disk: READ CAPACITY tells it at once, and each nexus that it has changed (2Ah/09h). The store has
// that size already where it has grown. Where it is to shrink, that follows: from now on nothing is submitted that lies beyond the new
// end, whenever it came; see Beyond.
func (lu *LU) Resize(size int64) error {
	switch unit := lu.Granularity(); {
	case lu.store == nil:
		return ErrNoMedium
	case size <= 0 || size%unit != 0:
		return fmt.Errorf("a size of %d bytes: want a positive multiple of %d", size, unit)
	case size == lu.info.Size:
		return nil
	}
	if size < lu.info.Size {
		lu.epoch++
	}
	lu.info.Size, lu.blocks = size, uint64(size)>>lu.blockShift
	lu.Raise(sense.CapacityChanged, nil)
	return nil
}

// Beyond returns how many requests the store has that reach beyond the first size bytes.
func (lu *LU) Beyond(size int64) int {
	n := 0
	for _, c := range lu.pending {
		if (c.state == atStore || c.state == inDoubt) && !c.yielded && c.req.Off+c.req.Len > size {
			n++
		}
	}
	return n
}
