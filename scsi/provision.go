package scsi

import (
	"encoding/binary"
	"math"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
)

// What a disk offers beyond READ and WRITE, by what its store can do and its configuration lets it.

// DefaultMaxWriteSame is what one WRITE SAME covers at most, in bytes: as much as one WRITE. Initiators cut what is longer
// themselves, and none of the pieces comes near a time-out where the store has to write it all.
const DefaultMaxWriteSame = 16 << 20

// provision sets what the LU offers.
func (lu *LU) provision(cfg *DiskConfig) {
	unit := max(int64(lu.blockSize), lu.storeMask+1)
	lu.zeroStep = zeroStep
	if lu.info.MaxDiscard > 0 {
		lu.zeroStep = 1 << min(log2(lu.info.MaxDiscard), log2(zeroStep))
	}
	able := lu.zeroStep >= unit
	lu.zeroes = able && lu.info.Has(backstore.CapWriteZeroes)
	lu.unmap = able && lu.info.Has(backstore.CapDiscard) && !cfg.NoUnmap
	lu.unmapSame = lu.unmap && lu.info.DiscardZeroes && !cfg.NoWriteSame
	lu.zeroBlock = make([]byte, lu.blockSize)

	var without []byte
	// A disk that may not be written refuses UNMAP as it does WRITE: WRITE PROTECTED says more than an unknown operation code.
	if !lu.unmap && (!lu.readOnly || cfg.NoUnmap) {
		without = append(without, cdb.Unmap)
	}
	if cfg.NoWriteSame {
		without = append(without, cdb.WriteSame10, cdb.WriteSame16)
	} else if lu.maxSame = uint64(cfg.MaxWriteSame) >> lu.blockShift; cfg.MaxWriteSame == 0 {
		lu.maxSame = DefaultMaxWriteSame >> lu.blockShift
	}
	if !cfg.NoCompareAndWrite {
		lu.maxCompare = lu.maxCompareLength()
	}
	if lu.maxCompare == 0 {
		without = append(without, cdb.CompareAndWrite)
	}
	if lu.info.Shared {
		without = append(without, reservationCodes...)
		without = append(without, cdb.OrWrite16) // it reads, changes and writes, which does not hold against other openers
	}
	lu.ops = diskOps.without(without)
}

// without returns t without some operation codes.
func (t *opTable) without(codes []byte) *opTable {
	if len(codes) == 0 {
		return t
	}
	less := *t
	for _, code := range codes {
		less.code[code], less.actions[code] = nil, nil
	}
	return &less
}

// log2 of n, which is positive, rounded down.
func log2(n int64) int {
	k := 0
	for n >>= 1; n != 0; n >>= 1 {
		k++
	}
	return k
}

// unmapGranularity returns OPTIMAL UNMAP GRANULARITY, in blocks.
func (lu *LU) unmapGranularity() uint32 {
	return uint32(min(max(lu.info.DiscardGranularity, lu.storeMask+1, int64(lu.blockSize))>>lu.blockShift, math.MaxUint32))
}

// limits fills in page B0h what belongs to the commands here.
func (lu *LU) limits(b []byte) {
	b[5] = byte(lu.maxCompare)
	if lu.unmap {
		binary.BigEndian.PutUint32(b[20:], mostUnmapBlocks)
		binary.BigEndian.PutUint32(b[24:], mostUnmapDescriptors)
		binary.BigEndian.PutUint32(b[28:], lu.unmapGranularity())
		b[32] = 0x80 // UGAVALID, and an alignment of 0
	}
	binary.BigEndian.PutUint64(b[36:], lu.maxSame) // WSNZ is 0
}

// Page B2h, logical block provisioning: thin where blocks can be given back.
func vpdProvisioning(lu *LU, _ *Command, b []byte) []byte {
	if !lu.unmap {
		return append(b, 0, 0, 0, 0)
	}
	flags := byte(0x80) // LBPU
	if lu.unmapSame {
		flags |= 0x40 | 0x20 // LBPWS, LBPWS10
	}
	if lu.info.DiscardZeroes {
		flags |= 0x04 // LBPRZ
	}
	return append(b, 0, flags, 2, 0) // PROVISIONING TYPE: thin
}

// provisioning returns byte 14 of READ CAPACITY(16): LBPME and LBPRZ.
func (lu *LU) provisioning() byte {
	switch {
	case !lu.unmap:
		return 0
	case lu.info.DiscardZeroes:
		return 0x80 | 0x40
	}
	return 0x80
}
