package scsi

import (
	"fmt"
	"time"

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

	// TgtNaming shows the names that tgtd gives its disks: vendor IET, VPD pages 80h and 83h as it makes them of TID and LUN,
	// the numbers of the target and of the LU there. SCSIID takes the place of what tgtd makes of the two; at most 36 characters. Without
	// TgtNaming it is not shown.
	TgtNaming bool
	TID       int
	LUN       uint16 // set by package target
	SCSIID    string

	LogicalBlock  int // bytes, a power of two from 512 to 64 KiB; 512
	PhysicalBlock int // bytes, a power of two, LogicalBlock or more; the larger of 4096, LogicalBlock and the store's
	ReadOnly      bool
	Removable     bool // a disk without a store is, whatever this says, unless Away
	// Away: where there is no store, one is expected: commands that need it are told that the unit becomes ready, rather than that there is no medium.
	Away bool

	// Thin false makes the disk fully provisioned, as NoUnmap does. True changes nothing: a disk is thin where its store can give
	// blocks back, and one that said so without it would lie to file systems that wait for the room.
	Thin *bool
	// WriteCache is WCE of the caching mode page at start; nil: on where the store has a volatile cache. DescriptorSense is D_SENSE of the
	// control page at start. ModePages are mode pages as ParseModePage reads them, which then have the last word of both.
	WriteCache      *bool
	DescriptorSense bool
	ModePages       []string

	// RotationRate is MEDIUM ROTATION RATE: 1 for a medium that does not rotate, or rotations a minute from 1025 to 65534; 0: as the
	// store is.
	RotationRate int
	// LowestAligned is LOWEST ALIGNED LOGICAL BLOCK ADDRESS, 0 to 16383. OptimalGranularity (at most 65535) and OptimalLength are those of
	// VPD page B0h, in blocks; 0: as the store is.
	LowestAligned      int
	OptimalGranularity int
	OptimalLength      int

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

	// Timeout is how long a command may wait for the store, and OnTimeout what then becomes of it; 0: DefaultTimeout.
	Timeout   time.Duration
	OnTimeout TimeoutPolicy

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

// NewDisk returns a disk on st, which stays the caller's to close; nil: a drive without a medium. host gets the completions. An
// error says what of cfg or st will not do.
func NewDisk(st backstore.Store, host Host, cfg DiskConfig) (*LU, error) {
	var info backstore.Info
	if st != nil {
		info = st.Info()
	}
	sh, err := newShape(&cfg, &info, st != nil)
	if err != nil {
		return nil, err
	}
	initial, err := sh.initialModes(&cfg)
	if err != nil {
		return nil, err
	}
	lu := &LU{shape: *sh, device: deviceDisk, host: host, completer: host, cfg: cfg, initial: initial, modes: initial, epoch: 1}
	lu.behind.lu, lu.saving.lu = lu, lu
	if !info.Shared {
		lu.persistence = cfg.Persistence
		if lu.pr, err = decodePersistent(cfg.Reservations, lu.naa); err != nil {
			return nil, fmt.Errorf("the saved persistent reservations: %w", err)
		}
	}
	lu.cfg.Persistence, lu.cfg.Reservations, lu.cfg.Identity = nil, nil, sh.id.volume
	lu.setStore(st)
	lu.unloaded = st == nil
	lu.readyChanged()
	lu.modesChanged()
	return lu, nil
}

// setStore makes st what commands go to from now on.
func (lu *LU) setStore(st backstore.Store) {
	lu.store, lu.kicker, lu.canceler = st, nil, nil
	if st == nil {
		return
	}
	lu.kicker, _ = st.(backstore.Kicker)
	if lu.info.Has(backstore.CapCancel) {
		lu.canceler, _ = st.(backstore.Canceler)
	}
}
