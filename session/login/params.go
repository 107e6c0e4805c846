package login

import (
	"errors"
	"fmt"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A SessionType is the value of the key SessionType (RFC 7143 §13.21).
type SessionType uint8

// The session types.
const (
	Normal SessionType = iota
	Discovery
)

func (t SessionType) String() string {
	if t == Discovery {
		return "Discovery"
	}
	return "Normal"
}

// TaskReporting is the value of the key TaskReporting (RFC 7143 §13.23).
type TaskReporting uint8

// The values of TaskReporting, from the default on.
const (
	ReportRFC3720 TaskReporting = iota
	ReportResponseFence
	ReportFastAbort
)

// Params are the values of one connection and its session (RFC 7143 §13). As a
// negotiation's result they hold for both sides; as an offer or a limit they are
// what one side would like: a bool of HeaderDigest, DataDigest and ImmediateData is
// then "may be used", one of InitialR2T and Data…InOrder "is demanded", a number
// the most (DefaultTime2Wait: the least) that the side wants.
type Params struct {
	HeaderDigest, DataDigest  bool   // CRC32C
	MaxConnections            uint16 // 1-65535
	InitialR2T, ImmediateData bool
	MaxBurstLength            uint32 // bytes, 512 to 2^24-1
	FirstBurstLength          uint32 // bytes, 512 to 2^24-1, never more than MaxBurstLength
	MaxRecvDataSegmentLength  uint32 // bytes, what this side takes in one PDU
	MaxXmitDataSegmentLength  uint32 // bytes, what the other side declared that it takes; result only
	DefaultTime2Wait          uint16 // seconds, 0-3600
	DefaultTime2Retain        uint16 // seconds, 0-3600
	MaxOutstandingR2T         uint16 // 1-65535
	DataPDUInOrder            bool
	DataSequenceInOrder       bool
	ErrorRecoveryLevel        uint8 // 0-2
	TaskReporting             TaskReporting
	ProtocolLevel             uint8 // iSCSIProtocolLevel, 0-31
}

// RFCDefaults are the values of keys that nobody spoke of (RFC 7143 §13).
func RFCDefaults() Params {
	p := Params{MaxXmitDataSegmentLength: DefaultMRDSL}
	for i := range table {
		if r := &table[i]; r.set != nil {
			r.set(&p, r.def)
		}
	}
	return p
}

// DefaultMRDSL is the MaxRecvDataSegmentLength of a side that declared none, and
// of both sides until they did (RFC 7143 §13.12).
const DefaultMRDSL = 8192

// Config is what a target brings into every login: its offers and the bounds of what an
// initiator may spend. It is set before use, then read-only, and shared by all logins.
type Config struct {
	Params Params // offers and limits; a target's own (TargetInfo.Params) go before

	RequireHeaderDigest bool // a login that ends without CRC32C fails, for discovery too
	RequireDataDigest   bool

	ForbidMD5 bool // CHAP algorithm 5 is not chosen (RFC 7143 §9.2.1 has the doubts about it)

	MaxKeyBytes int // bytes of keys one login may send in all; RFC 7143 §6.2 asks for 8192 or more
	MaxKeys     int // pairs one login may send in all
	MaxPDUs     int // Login Requests one login may take
}

// Bounds of a login that Defaults sets.
const (
	DefaultMaxKeyBytes = 16384
	DefaultMaxKeys     = 128
	DefaultMaxPDUs     = 32
)

// Defaults returns the configuration that lunar ships with.
func Defaults() Config {
	return Config{
		Params: Params{
			HeaderDigest: true, DataDigest: true,
			MaxConnections: 1, InitialR2T: false, ImmediateData: true,
			MaxBurstLength: 1 << 20, FirstBurstLength: 256 << 10, MaxRecvDataSegmentLength: 256 << 10,
			DefaultTime2Wait: 2, DefaultTime2Retain: 0, MaxOutstandingR2T: 8,
			DataPDUInOrder: true, DataSequenceInOrder: true,
			ErrorRecoveryLevel: 0, TaskReporting: ReportFastAbort, ProtocolLevel: 2,
		},
		MaxKeyBytes: DefaultMaxKeyBytes, MaxKeys: DefaultMaxKeys, MaxPDUs: DefaultMaxPDUs,
	}
}

// Check reports the first value of p that RFC 7143 §13 does not allow, as an error
// that names its key.
func (p *Params) Check() error {
	for i := range table {
		if r := &table[i]; r.kind.numeric() {
			if v := r.get(p); v < r.min || v > r.max {
				return fmt.Errorf("%s=%d is not within %d-%d", r.name, v, r.min, r.max)
			}
		}
	}
	if p.FirstBurstLength > p.MaxBurstLength {
		return fmt.Errorf("FirstBurstLength=%d is more than MaxBurstLength=%d", p.FirstBurstLength, p.MaxBurstLength)
	}
	return nil
}

// Check reports the first fault of c, as an error that names its key: see Params.Check.
func (c *Config) Check() error {
	switch p := &c.Params; {
	case c.RequireHeaderDigest && !p.HeaderDigest:
		return errors.New("HeaderDigest=CRC32C is required and not offered")
	case c.RequireDataDigest && !p.DataDigest:
		return errors.New("DataDigest=CRC32C is required and not offered")
	}
	return c.Params.Check()
}

// A Policy answers what a login asks about names: the target's table of targets,
// accounts and ACLs. The Negotiator calls it from the goroutine that called
// Received, so it must not wait.
type Policy interface {
	// Target answers whether an initiator may log in to target, a name of NormalizeTargetName's. It is asked before
	// anybody authenticates. Mind that
	// LoginSuccess is 0 and an Auth without accounts lets everybody in. Any other status ends
	// the login with it, and info.Why goes to the log: ServiceUnavailable
	// while the state is not loaded yet, TargetNotFound for what does not exist or
	// is not on this portal, AuthorizationFailure or TargetNotFound for what the ACL refuses,
	// TargetMovedTemp or TargetMovedPerm with info.Redirect set.
	Target(i Initiator, target string) (info TargetInfo, status pdu.LoginStatus)

	// Discovery answers whether an initiator may open a discovery session and how it
	// must authenticate.
	Discovery(i Initiator) (auth Auth, status pdu.LoginStatus)
}

// An Initiator is who logs in.
type Initiator struct {
	Name string // normalised
	Sent string // as it named itself; text from the wire, quote before printing
}

// TargetInfo is what a login needs to know of a target.
type TargetInfo struct {
	Alias    string  // TargetAlias, "" for none
	Params   *Params // this target's offers; nil: Config's
	Auth     Auth
	Redirect string // TargetAddress that goes with TargetMoved…: host:port, without a portal group tag (RFC 7143 §13.8)
	Why      error  // why the target is refused: for the log, never for the initiator

	// This target's beside Config's.
	RequireHeaderDigest, RequireDataDigest bool
}

// Auth is how the initiators of a target, or of discovery, authenticate. With no
// account in Incoming they need not.
type Auth struct {
	Incoming []Account // CHAP: whoever knows the secret of one of these is let in
	Outgoing *Account  // what we prove when the initiator asks for mutual CHAP; nil: such a login fails
}

// An Account is a CHAP name and its secret.
type Account struct {
	Name   string
	Secret []byte
}

// String hides the secret from every kind of print.
func (a Account) String() string { return "account " + a.Name }

// GoString is String.
func (a Account) GoString() string { return a.String() }

// A Response is what Received asks of its caller.
type Response struct {
	// Header and Data are the Login Response to send. The caller adds StatSN, ExpCmdSN and
	// MaxCmdSN (they count only in a login that goes on) and, when Final, the TSIH. Data
	// belongs to the Negotiator until the next Received, and has no pad.
	Header pdu.Header
	Data   []byte

	Final  bool            // login succeeded: the caller does the end of login, then sends this
	Status pdu.LoginStatus // other than LoginSuccess: login failed; send this, then close
	Drop   bool            // close without sending anything (RFC 7143 §6.3: no Login Request came first)
	Err    error           // why, for the log; set with Status and Drop. Peer's text in it is quoted
}

// Result is what a login came to.
type Result struct {
	Type           SessionType
	InitiatorName  string // normalised
	InitiatorSent  string // as it came; text from the wire, quote before printing
	InitiatorAlias string // "" if none; text from the wire, quote before printing
	TargetName     string // normalised; "" in a discovery session
	PortalGroup    uint16
	ISID           [6]byte
	TSIH           uint16 // asked for: 0 for a new session
	CID            uint16
	CmdSN          pdu.SN // of the Login Requests: the first command of a new session carries it (RFC 7143 §4.2.2.1)
	Params         Params // with a TSIH, only what belongs to the connection counts: digests and …DataSegmentLength
	AuthUser       string // CHAP name that was proved, "" with AuthMethod=None
	MutualAuth     bool   // we proved ours, too
	Info           TargetInfo
}
