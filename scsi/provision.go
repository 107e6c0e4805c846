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
func (sh *shape) provision(cfg *DiskConfig) {
	noUnmap := cfg.NoUnmap || cfg.Thin != nil && !*cfg.Thin
	unit := max(int64(sh.blockSize), sh.storeMask+1)
	sh.zeroStep = zeroStep
	if sh.info.MaxDiscard > 0 {
		sh.zeroStep = 1 << min(log2(sh.info.MaxDiscard), log2(zeroStep))
	}
	able := sh.zeroStep >= unit
	sh.zeroes = able && sh.info.Has(backstore.CapWriteZeroes)
	sh.unmap = able && sh.info.Has(backstore.CapDiscard) && !noUnmap
	sh.unmapSame = sh.unmap && sh.info.DiscardZeroes && !cfg.NoWriteSame
	sh.zeroBlock = make([]byte, sh.blockSize)

	var without []byte
	// A disk that may not be written refuses UNMAP as it does WRITE: WRITE PROTECTED says more than an unknown operation code.
	if !sh.unmap && (!sh.readOnly || noUnmap) {
		without = append(without, cdb.Unmap)
	}
	if cfg.NoWriteSame {
		without = append(without, cdb.WriteSame10, cdb.WriteSame16)
	} else if sh.maxSame = uint64(cfg.MaxWriteSame) >> sh.blockShift; cfg.MaxWriteSame == 0 {
		sh.maxSame = DefaultMaxWriteSame >> sh.blockShift
	}
	if !cfg.NoCompareAndWrite {
		sh.maxCompare = sh.maxCompareLength()
	}
	if sh.maxCompare == 0 {
		without = append(without, cdb.CompareAndWrite)
	}
	if sh.info.Shared {
		without = append(without, reservationCodes...)
		without = append(without, cdb.OrWrite16) // it reads, changes and writes, which does not hold against other openers
	}
	sh.ops = diskOps.without(without)
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
