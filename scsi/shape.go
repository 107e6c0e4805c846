package scsi

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// A shape is all of an LU that follows from its configuration and its store. A change makes a new one, as a whole or not at all, and the LU
// takes it over in one step; between changes nothing writes to it but Resize.
type shape struct {
	id  identity
	naa uint64 // of the volume, whatever is shown: reservations are saved under it

	info       backstore.Info
	blockSize  uint32
	blockShift uint8
	physShift  uint8 // log2 of logical blocks in a physical one
	readOnly   bool
	removable  bool
	functions  []sam.TMF // that the host carries out
	fua        fuaMode
	maxBlocks  uint32 // of one READ or WRITE
	maxBytes   int64  // of one store request, a multiple of the store's block
	maxFlight  int    // store requests at once
	maxQueue   int    // commands pending at once
	storeMask  int64  // the store's block - 1 where that is more than the logical block, else 0
	memMask    uintptr
	unmap      bool   // UNMAP, and thin provisioning with it
	unmapSame  bool   // WRITE SAME with UNMAP
	zeroes     bool   // the store zeroes by itself
	zeroStep   int64  // bytes of one request that zeroes or deallocates, a power of two
	zeroBlock  []byte // of blockSize, read-only
	maxSame    uint64 // blocks of one WRITE SAME
	maxCompare uint32 // blocks of one COMPARE AND WRITE; 0: not offered
	ops        *opTable

	rotation      uint16 // MEDIUM ROTATION RATE
	lowestAligned uint16
	granularity   uint16 // OPTIMAL TRANSFER LENGTH GRANULARITY
	optimal       uint32 // OPTIMAL TRANSFER LENGTH

	blocks uint64
}

// Widest values of fields.
const (
	mostLowestAligned = 1<<14 - 1
	// leastRotation and mostRotation are the rates that are one (SBC-3, block device characteristics): 0 and 1 mean something else,
	// the rest is reserved.
	leastRotation = 0x0401
	mostRotation  = 0xfffe
)

// newShape works out what cfg and info make together; loaded: there is a store.
func newShape(cfg *DiskConfig, info *backstore.Info, loaded bool) (*shape, error) {
	logical := cfg.LogicalBlock
	if logical == 0 {
		logical = 512
	}
	if logical < 512 || logical > 64<<10 || logical&(logical-1) != 0 {
		return nil, fmt.Errorf("logical block of %d bytes: want a power of two from 512 to 65536", logical)
	}
	physical := cfg.PhysicalBlock
	if physical == 0 {
		physical = max(4096, logical, min(floorPower(info.PhysicalBlock), mostPhysical))
	}
	if physical < logical || physical&(physical-1) != 0 || physical/logical > 1<<15 {
		return nil, fmt.Errorf("physical block of %d bytes: want a power of two, %d or more", physical, logical)
	}
	sh := &shape{info: *info, blockSize: uint32(logical), blockShift: uint8(bits.TrailingZeros(uint(logical))),
		physShift: uint8(bits.TrailingZeros(uint(physical / logical))), blocks: uint64(info.Size) / uint64(logical)}
	if loaded {
		if err := checkStore(info, logical); err != nil {
			return nil, err
		}
	}
	maxTransfer := cfg.MaxTransfer
	if maxTransfer == 0 {
		maxTransfer = DefaultMaxTransfer
	}
	if maxTransfer < int64(physical) || maxTransfer > MostMaxTransfer {
		return nil, fmt.Errorf("a transfer limit of %d bytes: want %d to %d", maxTransfer, physical, MostMaxTransfer)
	}
	queue := cfg.MaxQueued
	if queue == 0 {
		queue = DefaultMaxQueued
	}
	if queue < 0 {
		return nil, fmt.Errorf("a queue of %d commands", queue)
	}
	if cfg.MaxWriteSame < 0 || cfg.MaxWriteSame > 0 && cfg.MaxWriteSame < int64(logical) {
		return nil, fmt.Errorf("a WRITE SAME limit of %d bytes: want a block or more", cfg.MaxWriteSame)
	}
	var err error
	if sh.id, sh.naa, err = newIdentity(cfg, info.Identity); err != nil {
		return nil, err
	}
	sh.readOnly, sh.removable = cfg.ReadOnly || info.ReadOnly, cfg.Removable || !loaded && !cfg.Away
	sh.maxBlocks, sh.maxFlight, sh.maxQueue = uint32(maxTransfer/int64(logical)), max(info.MaxInFlight, 1), queue
	switch {
	case info.Has(backstore.CapFUA):
		sh.fua = nativeFUA
	case info.Has(backstore.CapFlush):
		sh.fua = flushedFUA
	}
	if info.BlockSize > logical {
		sh.storeMask = int64(info.BlockSize) - 1
	}
	if info.MemAlign > 1 {
		sh.memMask = uintptr(info.MemAlign) - 1
	}
	sh.maxBytes = math.MaxInt64
	if info.MaxTransfer > 0 {
		unit := max(int64(logical), int64(info.BlockSize))
		if sh.maxBytes = info.MaxTransfer &^ (unit - 1); sh.maxBytes == 0 {
			return nil, fmt.Errorf("the store takes %d bytes at once, less than a block of %d", info.MaxTransfer, unit)
		}
	}
	if sh.functions = cfg.Functions; sh.functions == nil {
		sh.functions = defaultFunctions
	}
	sh.provision(cfg)
	return sh, sh.characterise(cfg)
}

// checkStore says what of a store will not do for blocks of logical bytes.
func checkStore(info *backstore.Info, logical int) error {
	switch {
	case info.Size <= 0:
		return fmt.Errorf("a volume of %d bytes is no disk", info.Size)
	case info.Size%int64(logical) != 0:
		return fmt.Errorf("the volume's size of %d bytes is no multiple of the logical block of %d", info.Size, logical)
	case info.BlockSize < 0 || info.BlockSize&(info.BlockSize-1) != 0 || info.MemAlign < 0 || info.MemAlign&(info.MemAlign-1) != 0:
		return fmt.Errorf("the store's block of %d bytes or memory alignment of %d is no power of two", info.BlockSize, info.MemAlign)
	case info.BlockSize > logical && info.Size%int64(info.BlockSize) != 0:
		return fmt.Errorf("the volume's size of %d bytes is no multiple of its own block of %d", info.Size, info.BlockSize)
	case info.BlockSize > logical && info.Shared:
		return fmt.Errorf("the volume has blocks of %d bytes and others may write it, so a logical block of %d cannot be kept whole", info.BlockSize, logical)
	}
	return nil
}

// characterise sets what is only told to initiators.
func (sh *shape) characterise(cfg *DiskConfig) error {
	switch rate := cfg.RotationRate; {
	case rate != 0 && rate != 1 && (rate < leastRotation || rate > mostRotation):
		return fmt.Errorf("a rotation rate of %d: want 1 (does not rotate) or %d to %d a minute", rate, leastRotation, mostRotation)
	case rate != 0:
		sh.rotation = uint16(rate)
	case !sh.info.Rotational:
		sh.rotation = 1
	}
	if cfg.LowestAligned < 0 || cfg.LowestAligned > mostLowestAligned {
		return fmt.Errorf("a lowest aligned block of %d: want 0 to %d", cfg.LowestAligned, mostLowestAligned)
	}
	sh.lowestAligned = uint16(cfg.LowestAligned)
	if cfg.OptimalGranularity < 0 || cfg.OptimalGranularity > math.MaxUint16 {
		return fmt.Errorf("an optimal granularity of %d blocks: want at most %d", cfg.OptimalGranularity, math.MaxUint16)
	}
	if sh.granularity = uint16(cfg.OptimalGranularity); sh.granularity == 0 && sh.physShift < 16 {
		sh.granularity = 1 << sh.physShift
	}
	if cfg.OptimalLength < 0 || cfg.OptimalLength > math.MaxUint32 {
		return fmt.Errorf("an optimal transfer length of %d blocks: want at most %d", cfg.OptimalLength, uint32(math.MaxUint32))
	}
	if sh.optimal = uint32(cfg.OptimalLength); sh.optimal == 0 && sh.info.OptimalIO > 0 {
		blocks := sh.info.OptimalIO >> sh.blockShift
		// Linux complains of one that is no multiple of the physical block.
		if blocks <= int(sh.maxBlocks) && blocks&(1<<sh.physShift-1) == 0 {
			sh.optimal = uint32(blocks)
		}
	}
	return nil
}

// floorPower returns the largest power of two that is not above n, or 0.
func floorPower(n int) int {
	if n <= 0 {
		return 0
	}
	return 1 << (bits.Len(uint(n)) - 1)
}
