package scsi

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// DiskConfig is what a disk shows of itself beyond its store. The zero value of a field is its default.
type DiskConfig struct {
	Vendor   string // T10 vendor identification, at most 8 ASCII characters; "LUNAR"
	Product  string // at most 16; "VIRTUAL-DISK"
	Revision string // at most 4; "0001"
	Serial   string // at most 36; made from the identity
	// Identity names the volume for ever: the hash of it is the NAA designator. Default: the store's. One
	// of the two must be there.
	Identity string

	LogicalBlock  int // bytes, a power of two from 512 to 64 KiB; 512
	PhysicalBlock int // bytes, a power of two, LogicalBlock or more; the larger of 4096, LogicalBlock and the store's
	ReadOnly      bool
	Removable     bool

	TargetName      string // iSCSI name for VPD page 83h where the nexus has none
	TargetPortGroup uint16 // the target port group identifier there: one for all ports, whose access states are the same; 1
	RelativePort    uint16 // the relative target port identifier of every port; 0: each has its portal group tag

	// Persistence makes APTPL possible; nil: persistent reservations end with the daemon. Reservations is what it last saved of
	// this volume, nil for nothing; NewDisk refuses what is damaged or another volume's.
	Persistence  Persistence
	Reservations []byte
	// What virtual machine monitors ask for beyond a plain disk, each to be switched off.
	NoUnmap           bool // UNMAP, WRITE SAME with UNMAP: the disk is then fully provisioned
	NoWriteSame       bool
	NoCompareAndWrite bool

	// Functions are the task management functions that the host carries out; all but TASK REASSIGN.
	Functions []sam.TMF

	MaxWriteSame int64 // bytes of one WRITE SAME; DefaultMaxWriteSame

	MaxTransfer int64 // bytes of one READ or WRITE; DefaultMaxTransfer
	MaxQueued   int   // commands that may be pending; DefaultMaxQueued
}

// Bounds and defaults.
const (
	// DefaultMaxTransfer bounds what one command can ask for: above what UEFI and Windows send (7 MiB and 1
	// MiB have been seen), and small enough that a command's buffer is no danger.
	DefaultMaxTransfer = 16 << 20
	// MostMaxTransfer is the largest MaxTransfer: In and Out have 32 bits, and so has EDTL.
	MostMaxTransfer = 1 << 30
	// mostPhysical is the largest block of a store that is shown as the physical block unasked.
	mostPhysical = 64 << 10
	// DefaultMaxQueued bounds the commands of all nexuses that an LU holds; above it TASK SET FULL.
	DefaultMaxQueued = 4096
)

// NewDisk returns a disk on st, which stays the caller's to close. host gets the completions. An
// error says what of cfg or st will not do.
func NewDisk(st backstore.Store, host Host, cfg DiskConfig) (*LU, error) {
	info := st.Info()
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
	switch {
	case info.Size <= 0:
		return nil, fmt.Errorf("a volume of %d bytes is no disk", info.Size)
	case info.Size%int64(logical) != 0:
		return nil, fmt.Errorf("the volume's size of %d bytes is no multiple of the logical block of %d", info.Size, logical)
	case info.BlockSize < 0 || info.BlockSize&(info.BlockSize-1) != 0 || info.MemAlign < 0 || info.MemAlign&(info.MemAlign-1) != 0:
		return nil, fmt.Errorf("the store's block of %d bytes or memory alignment of %d is no power of two", info.BlockSize, info.MemAlign)
	case info.BlockSize > logical && info.Size%int64(info.BlockSize) != 0:
		return nil, fmt.Errorf("the volume's size of %d bytes is no multiple of its own block of %d", info.Size, info.BlockSize)
	case info.BlockSize > logical && info.Shared:
		return nil, fmt.Errorf("the volume has blocks of %d bytes and others may write it, so a logical block of %d cannot be kept whole", info.BlockSize, logical)
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
	id, err := newIdentity(&cfg, info.Identity)
	if err != nil {
		return nil, err
	}

	lu := &LU{
		id: id, device: deviceDisk, host: host, completer: host, store: st, info: info,
		blockSize: uint32(logical), blockShift: uint8(bits.TrailingZeros(uint(logical))),
		physShift: uint8(bits.TrailingZeros(uint(physical / logical))),
		readOnly:  cfg.ReadOnly || info.ReadOnly, removable: cfg.Removable,
		maxBlocks: uint32(maxTransfer / int64(logical)), maxFlight: max(info.MaxInFlight, 1), maxQueue: queue,
		blocks: uint64(info.Size) / uint64(logical),
	}
	lu.behind.lu, lu.saving.lu = lu, lu
	if !info.Shared {
		lu.persistence = cfg.Persistence
		if lu.pr, err = decodePersistent(cfg.Reservations, id.NAA); err != nil {
			return nil, fmt.Errorf("the saved persistent reservations: %w", err)
		}
	}
	lu.kicker, _ = st.(backstore.Kicker)
	if info.Has(backstore.CapCancel) {
		lu.canceler, _ = st.(backstore.Canceler)
	}
	switch {
	case info.Has(backstore.CapFUA):
		lu.fua = nativeFUA
	case info.Has(backstore.CapFlush):
		lu.fua = flushedFUA
	}
	if info.BlockSize > logical {
		lu.storeMask = int64(info.BlockSize) - 1
	}
	if info.MemAlign > 1 {
		lu.memMask = uintptr(info.MemAlign) - 1
	}
	lu.maxBytes = math.MaxInt64
	if info.MaxTransfer > 0 {
		unit := max(int64(logical), int64(info.BlockSize))
		if lu.maxBytes = info.MaxTransfer &^ (unit - 1); lu.maxBytes == 0 {
			return nil, fmt.Errorf("the store takes %d bytes at once, less than a block of %d", info.MaxTransfer, unit)
		}
	}
	if lu.functions = cfg.Functions; lu.functions == nil {
		lu.functions = defaultFunctions
	}
	lu.provision(&cfg)
	lu.modesChanged()
	return lu, nil
}

// floorPower returns the largest power of two that is not above n, or 0.
func floorPower(n int) int {
	if n <= 0 {
		return 0
	}
	return 1 << (bits.Len(uint(n)) - 1)
}
