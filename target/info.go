package target

import (
	"net/netip"
	"time"

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
	RxData, TxData  uint64 // bytes of data segments of Data-Out and commands, and of Data-In
	DataOut, DataIn uint64 // PDUs
	Commands        uint64 // SCSI Command PDUs
	Responses       uint64 // SCSI Response PDUs, and Data-In PDUs that carry the status
}

// LUNStats count the commands of one session at one LUN, or of all at one LUN.
type LUNStats struct {
	LUN                                              uint16
	ReadsBegun, ReadBytesBegun, Reads, ReadBytes     uint64 // commands that read from the medium and what they asked for; those that ended GOOD
	WritesBegun, WriteBytesBegun, Writes, WriteBytes uint64
	Others                                           uint64 // commands of any other kind that ended
	Errors                                           uint64 // commands that ended with any other status than GOOD
}

// A LUNInfo tells of one LUN of a target at one moment.
type LUNInfo struct {
	LUN            uint16
	Controller     bool
	Size           int64 // bytes; 0 without a medium
	BlockSize      int   // logical, bytes
	Online         bool  // there is a medium and it may be used
	Failed         bool  // the store refuses writes until it is opened anew, or a fault took the unit offline
	PreventRemoval bool  // some nexus prevents medium removal
	SWP            bool  // software write protect (control mode page)
	ReadOnly       bool
	Thin           bool // LBPME
	WriteCache     bool // WCE
	Identity       string
	NAA            uint64
	Serial         string
	Stats          LUNStats          // of all sessions there have been
	Errors         map[string]uint64 // commands that ended CHECK CONDITION, by sense ("key/asc/ascq" in hex, as 5/24/00), and other statuses by name
	ReadLatency    Histogram
	WriteLatency   Histogram
	Queued         int // commands begun and not ended, of all sessions
}

// A Histogram counts how long commands took, from their arrival to their status.
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
	Busy     time.Duration // that the loop has worked, of Up
	Up       time.Duration
	Commands session.Counters // of the target's sessions, those that have ended too
}
