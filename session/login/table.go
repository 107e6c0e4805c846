package login

// A use says when a key may be sent (RFC 7143 §13: "Use").
type use uint8

const (
	initialize use = iota // IO: in the login of any connection
	leading               // LO: in the login of a session's first connection
	fullOnly              // FFPO
	anyTime               // ALL
)

// A sender is who may send a key first.
type sender uint8

const (
	initiator sender = 1 << iota
	target
	both = initiator | target
)

// A kind is how a key's value comes about (RFC 7143 §6.2).
type kind uint8

const (
	declared       kind = iota // text, no answer
	declaredNumber             // a number within limits, no answer
	list                       // the answer is the first element the acceptor can do
	boolAnd
	boolOr
	minimum
	maximum
	obsoleteBool   // RFC 7143 §13.25: IFMarker, OFMarker
	obsoleteNumber // RFC 7143 §13.25: IFMarkInt, OFMarkInt
)

func (k kind) numeric() bool { return k == minimum || k == maximum || k == declaredNumber }
func (k kind) boolean() bool { return k == boolAnd || k == boolOr }

// A field is how a row reaches its value in Params: as a number, 0 or 1 for a bool.
type field struct {
	get func(*Params) uint32
	set func(*Params, uint32)
}

func number[T ~uint8 | ~uint16 | ~uint32](at func(*Params) *T) field {
	return field{
		get: func(p *Params) uint32 { return uint32(*at(p)) },
		set: func(p *Params, v uint32) { *at(p) = T(v) },
	}
}

func truth(at func(*Params) *bool) field {
	return field{
		get: func(p *Params) uint32 {
			if *at(p) {
				return 1
			}
			return 0
		},
		set: func(p *Params, v uint32) { *at(p) = v != 0 },
	}
}

// A row is one key.
type row struct {
	name     string
	use      use
	from     sender
	kind     kind
	security bool     // may be sent in the security stage (RFC 7143 §12)
	normal   bool     // Irrelevant in a discovery session
	min, max uint32   // legal range of a number
	def      uint32   // the value when nobody speaks of the key
	values   []string // of a list, in the order of the field's numbers
	field
}

// Bounds of numbers (RFC 7143 §13).
const (
	minSegment   = 512
	maxSegment   = 1<<24 - 1
	maxTime      = 3600 // seconds
	maxRecovery  = 2
	maxLevel     = 31
	maxUint16Key = 65535
)

var digestNames = []string{"None", "CRC32C"}

// table holds the keys of RFC 7143 sections 12 and 13, in the order in which they are
// offered. The keys of the authentication methods are chap.go's.
var table = [...]row{
	{name: "AuthMethod", use: initialize, from: both, kind: list, security: true},
	{name: "SessionType", use: leading, from: initiator, kind: declared, security: true},
	{name: "InitiatorName", use: initialize, from: initiator, kind: declared, security: true},
	{name: "InitiatorAlias", use: anyTime, from: initiator, kind: declared, security: true},
	{name: "TargetName", use: initialize, from: initiator, kind: declared, security: true}, // and in a target's SendTargets answer
	{name: "TargetAlias", use: anyTime, from: target, kind: declared, security: true},
	{name: "TargetAddress", use: anyTime, from: target, kind: declared, security: true},
	{name: "TargetPortalGroupTag", use: initialize, from: target, kind: declared, security: true},
	{name: "SendTargets", use: fullOnly, from: initiator, kind: declared},
	{name: "X#NodeArchitecture", use: leading, from: both, kind: declared, security: true}, // §13.26: understood, and of no use

	{name: "HeaderDigest", use: initialize, from: both, kind: list, values: digestNames,
		field: truth(func(p *Params) *bool { return &p.HeaderDigest })},
	{name: "DataDigest", use: initialize, from: both, kind: list, values: digestNames,
		field: truth(func(p *Params) *bool { return &p.DataDigest })},
	{name: "MaxRecvDataSegmentLength", use: anyTime, from: both, kind: declaredNumber, min: minSegment, max: maxSegment, def: DefaultMRDSL,
		field: number(func(p *Params) *uint32 { return &p.MaxRecvDataSegmentLength })},
	{name: "DefaultTime2Wait", use: leading, from: both, kind: maximum, max: maxTime, def: 2,
		field: number(func(p *Params) *uint16 { return &p.DefaultTime2Wait })},
	{name: "DefaultTime2Retain", use: leading, from: both, kind: minimum, max: maxTime, def: 20,
		field: number(func(p *Params) *uint16 { return &p.DefaultTime2Retain })},
	{name: "ErrorRecoveryLevel", use: leading, from: both, kind: minimum, max: maxRecovery,
		field: number(func(p *Params) *uint8 { return &p.ErrorRecoveryLevel })},
	{name: "MaxConnections", use: leading, from: both, kind: minimum, normal: true, min: 1, max: maxUint16Key, def: 1,
		field: number(func(p *Params) *uint16 { return &p.MaxConnections })},
	{name: "InitialR2T", use: leading, from: both, kind: boolOr, normal: true, def: 1,
		field: truth(func(p *Params) *bool { return &p.InitialR2T })},
	{name: "ImmediateData", use: leading, from: both, kind: boolAnd, normal: true, def: 1,
		field: truth(func(p *Params) *bool { return &p.ImmediateData })},
	{name: "MaxBurstLength", use: leading, from: both, kind: minimum, normal: true, min: minSegment, max: maxSegment, def: 262144,
		field: number(func(p *Params) *uint32 { return &p.MaxBurstLength })},
	{name: firstBurst, use: leading, from: both, kind: minimum, normal: true, min: minSegment, max: maxSegment, def: 65536,
		field: number(func(p *Params) *uint32 { return &p.FirstBurstLength })},
	{name: "MaxOutstandingR2T", use: leading, from: both, kind: minimum, normal: true, min: 1, max: maxUint16Key, def: 1,
		field: number(func(p *Params) *uint16 { return &p.MaxOutstandingR2T })},
	{name: "DataPDUInOrder", use: leading, from: both, kind: boolOr, normal: true, def: 1,
		field: truth(func(p *Params) *bool { return &p.DataPDUInOrder })},
	{name: "DataSequenceInOrder", use: leading, from: both, kind: boolOr, normal: true, def: 1,
		field: truth(func(p *Params) *bool { return &p.DataSequenceInOrder })},
	{name: "TaskReporting", use: leading, from: both, kind: list, normal: true, values: []string{"RFC3720", "ResponseFence", "FastAbort"},
		field: number(func(p *Params) *TaskReporting { return &p.TaskReporting })},
	{name: "iSCSIProtocolLevel", use: leading, from: both, kind: minimum, normal: true, max: maxLevel, def: 1,
		field: number(func(p *Params) *uint8 { return &p.ProtocolLevel })},

	{name: "IFMarker", use: initialize, from: both, kind: obsoleteBool},
	{name: "OFMarker", use: initialize, from: both, kind: obsoleteBool},
	{name: "IFMarkInt", use: initialize, from: both, kind: obsoleteNumber},
	{name: "OFMarkInt", use: initialize, from: both, kind: obsoleteNumber},
}

const firstBurst = "FirstBurstLength"

// byName finds a key's index in table.
var byName = func() map[string]int {
	m := make(map[string]int, len(table))
	for i := range table {
		m[table[i].name] = i
	}
	return m
}()

// A seen is a set of rows: keys already spoken of.
type seen uint64

func (s seen) has(i int) bool { return s&(1<<i) != 0 }
func (s *seen) add(i int)     { *s |= 1 << i }
