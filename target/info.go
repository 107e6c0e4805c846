package target

import (
	"net/netip"
	"time"

	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/login"
)

// A SessionInfo tells of one normal session at one moment.
type SessionInfo struct {
	TSIH      uint16
	ISID      [6]byte
	Initiator string // iSCSI name, normalised
	Alias     string // InitiatorAlias, or empty
	User      string // CHAP name, or empty
	Group     uint16 // of the portal that it came in by
	Since     time.Time
	Params    login.Params // as negotiated by the leading connection
	Conns     []ConnInfo   // oldest first
	LUNs      []LUNStats   // ascending; every LUN that the session sees
	Queued    int          // commands begun and not ended
}

// A ConnInfo tells of one connection of a session.
type ConnInfo struct {
	CID           uint16
	Remote, Local netip.AddrPort
	Counters      ConnCounters
}

// ConnCounters count what has passed over a connection since its login.
type ConnCounters struct {
	RxData, TxData   uint64 // bytes of data segments of Data-Out and commands, and of Data-In
	DataOut, DataIn  uint64 // PDUs
	RxBytes, TxBytes uint64 // everything that has passed, headers and login included: what tgtd counts as octets
	Commands         uint64 // SCSI Command PDUs
	Responses        uint64 // SCSI Response PDUs, and Data-In PDUs that carry the status
}

// LUNStats count the commands of one session at one LUN, or of all at one LUN. Every command that has begun is counted as ended
// once: GOOD, or failed, which is with any other status, or aborted. Bytes are those that the initiator means to transfer (EDTL), or,
// of what ended GOOD, has.
type LUNStats struct {
	LUN uint16
	// Commands that read from the medium (READ), by operation code; those that ended GOOD; those that failed.
	ReadsBegun, ReadBytesBegun, Reads, ReadBytes uint64
	ReadsFailed, ReadBytesFailed                 uint64
	// Commands that write to the medium what they carry (WRITE, WRITE AND VERIFY, WRITE SAME, ORWRITE, COMPARE AND WRITE).
	WritesBegun, WriteBytesBegun, Writes, WriteBytes uint64
	WritesFailed, WriteBytesFailed                   uint64
	OthersBegun, Others                              uint64 // commands of any other kind, and those that ended however
	OtherIn, OtherOut                                Flow   // of these, those with Data-In, and with Data-Out: tgtd counts them as reads and writes, and the end of whatever ended
	Errors                                           uint64 // commands that failed, of every kind
}

// A Flow counts commands that carry data.
type Flow struct{ Begun, BytesBegun, Ended, Bytes uint64 }

// A LUNInfo tells of one LUN of a target at one moment.
type LUNInfo struct {
	LUN            uint16
	Controller     bool
	Size           int64 // bytes; 0 without a medium
	BlockSize      int   // logical, bytes
	Online         bool  // there is a medium and it may be used
	Fenced         bool  // somebody else has taken the volume over; it is Failed, too
	Failed         bool  // the store refuses writes until it is opened anew, or a fault took the unit offline
	PreventRemoval bool  // some nexus prevents medium removal
	SWP            bool  // software write protect (control mode page)
	ReadOnly       bool
	Thin           bool // LBPME
	WriteCache     bool // WCE
	Identity       string
	NAA            uint64
	Serial         string
	Stats          LUNStats // of all sessions there have been
	// Errors are the commands that ended CHECK CONDITION, by sense ("key/asc/ascq" in hex, as 5/24/00), and other statuses by name; TASK
	// ABORTED is there for aborted commands, answered or not. Kinds beyond 64 count as "other".
	Errors       map[string]uint64
	ReadLatency  Histogram
	WriteLatency Histogram
	Queued       int // commands begun and not ended, of all sessions
	InDoubt      int // commands that were aborted or answered and that the store still has
	// Late are those that have waited for longer than scsi.DiskConfig.Timeout, as of the last second.
	Late scsi.Lateness
}

// A Histogram counts how long commands took, from their arrival to their status, by the clock of the loop: a command that ends in the
// turn in which it came is as long as that turn, at most Config.MaxTurn.
type Histogram struct {
	Counts [HistogramBuckets]uint64 // by HistogramBound, not cumulative; the last has what is longer than every bound
	Sum    time.Duration
}

// HistogramBuckets is how many buckets a Histogram has.
const HistogramBuckets = 20

// HistogramBound is the upper bound of bucket i: 16 µs for the first, doubled from each to the next.
func HistogramBound(i int) time.Duration { return 16 * time.Microsecond << i }

// Info tells of one target at one moment.
type Info struct {
	Name     string
	Ready    bool
	Sessions []SessionInfo // oldest first
	LUNs     []LUNInfo     // ascending
	Absent   LUNStats      // commands to LUNs that are not there
	Loop     string        // of the event loop: the name of the target that it was made for
	Busy     time.Duration // that the loop has been awake, of Up; targets on one loop (LoopOf) share it
	Up       time.Duration
	Commands session.Counters // of the target's sessions, those that have ended too
}
