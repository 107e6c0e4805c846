package cdb

import "fmt"

// Operation codes.
const (
	TestUnitReady      = 0x00
	RequestSense       = 0x03
	FormatUnit         = 0x04
	Read6              = 0x08
	Write6             = 0x0A
	Inquiry            = 0x12
	ModeSelect6        = 0x15
	Reserve6           = 0x16
	Release6           = 0x17
	ModeSense6         = 0x1A
	StartStopUnit      = 0x1B
	ReceiveDiagnostic  = 0x1C
	SendDiagnostic     = 0x1D
	PreventAllow       = 0x1E
	ReadCapacity10     = 0x25
	Read10             = 0x28
	Write10            = 0x2A
	WriteVerify10      = 0x2E
	Verify10           = 0x2F
	Prefetch10         = 0x34
	SynchronizeCache10 = 0x35
	ReadDefectData10   = 0x37
	WriteSame10        = 0x41
	Unmap              = 0x42
	Sanitize           = 0x48
	LogSense           = 0x4D
	ModeSelect10       = 0x55
	Reserve10          = 0x56
	Release10          = 0x57
	ModeSense10        = 0x5A
	PersistentIn       = 0x5E
	PersistentOut      = 0x5F
	ThirdPartyCopyOut  = 0x83
	ThirdPartyCopyIn   = 0x84
	Read16             = 0x88
	CompareAndWrite    = 0x89
	Write16            = 0x8A
	OrWrite16          = 0x8B
	WriteVerify16      = 0x8E
	Verify16           = 0x8F
	Prefetch16         = 0x90
	SynchronizeCache16 = 0x91
	WriteSame16        = 0x93
	WriteAtomic16      = 0x9C
	ServiceActionIn16  = 0x9E
	ReportLUNs         = 0xA0
	MaintenanceIn      = 0xA3
	MaintenanceOut     = 0xA4
	Read12             = 0xA8
	Write12            = 0xAA
	WriteVerify12      = 0xAE
	Verify12           = 0xAF
	ReadDefectData12   = 0xB7
)

// Service actions.
const (
	ReadCapacity16    = 0x10 // of ServiceActionIn16
	GetLBAStatus      = 0x12 // of ServiceActionIn16
	ReportTargetPorts = 0x0A // of MaintenanceIn
	ReportOpcodes     = 0x0C // of MaintenanceIn
	ReportTMFs        = 0x0D // of MaintenanceIn
)

type layout uint8

const (
	plain    layout = iota
	transfer        // LBA, TRANSFER LENGTH, the flags of byte 1
	span            // LBA and a number of blocks
	page            // a page code
	actions         // named by its service action
)

type known struct {
	name   string
	layout layout
	action map[byte]string
}

var names = [256]*known{
	TestUnitReady:      {name: "TEST UNIT READY"},
	RequestSense:       {name: "REQUEST SENSE"},
	FormatUnit:         {name: "FORMAT UNIT"},
	Read6:              {name: "READ(6)", layout: transfer},
	Write6:             {name: "WRITE(6)", layout: transfer},
	Inquiry:            {name: "INQUIRY", layout: page},
	ModeSelect6:        {name: "MODE SELECT(6)"},
	Reserve6:           {name: "RESERVE(6)"},
	Release6:           {name: "RELEASE(6)"},
	ModeSense6:         {name: "MODE SENSE(6)", layout: page},
	StartStopUnit:      {name: "START STOP UNIT"},
	ReceiveDiagnostic:  {name: "RECEIVE DIAGNOSTIC RESULTS"},
	SendDiagnostic:     {name: "SEND DIAGNOSTIC"},
	PreventAllow:       {name: "PREVENT ALLOW MEDIUM REMOVAL"},
	ReadCapacity10:     {name: "READ CAPACITY(10)"},
	Read10:             {name: "READ(10)", layout: transfer},
	Write10:            {name: "WRITE(10)", layout: transfer},
	WriteVerify10:      {name: "WRITE AND VERIFY(10)", layout: transfer},
	Verify10:           {name: "VERIFY(10)", layout: span},
	Prefetch10:         {name: "PRE-FETCH(10)", layout: span},
	SynchronizeCache10: {name: "SYNCHRONIZE CACHE(10)", layout: span},
	ReadDefectData10:   {name: "READ DEFECT DATA(10)"},
	WriteSame10:        {name: "WRITE SAME(10)", layout: span},
	Unmap:              {name: "UNMAP"},
	Sanitize:           {name: "SANITIZE"},
	LogSense:           {name: "LOG SENSE"},
	ModeSelect10:       {name: "MODE SELECT(10)"},
	Reserve10:          {name: "RESERVE(10)"},
	Release10:          {name: "RELEASE(10)"},
	ModeSense10:        {name: "MODE SENSE(10)", layout: page},
	PersistentIn: {name: "PERSISTENT RESERVE IN", layout: actions, action: map[byte]string{
		0: "READ KEYS", 1: "READ RESERVATION", 2: "REPORT CAPABILITIES", 3: "READ FULL STATUS"}},
	PersistentOut: {name: "PERSISTENT RESERVE OUT", layout: actions, action: map[byte]string{
		0: "REGISTER", 1: "RESERVE", 2: "RELEASE", 3: "CLEAR", 4: "PREEMPT", 5: "PREEMPT AND ABORT",
		6: "REGISTER AND IGNORE EXISTING KEY", 7: "REGISTER AND MOVE"}},
	ThirdPartyCopyOut:  {name: "THIRD-PARTY COPY OUT", layout: actions, action: map[byte]string{0: "EXTENDED COPY(LID1)"}},
	ThirdPartyCopyIn:   {name: "THIRD-PARTY COPY IN", layout: actions, action: map[byte]string{0: "RECEIVE COPY STATUS(LID1)", 3: "RECEIVE COPY OPERATING PARAMETERS"}},
	Read16:             {name: "READ(16)", layout: transfer},
	CompareAndWrite:    {name: "COMPARE AND WRITE"},
	Write16:            {name: "WRITE(16)", layout: transfer},
	OrWrite16:          {name: "ORWRITE(16)", layout: transfer},
	WriteVerify16:      {name: "WRITE AND VERIFY(16)", layout: transfer},
	Verify16:           {name: "VERIFY(16)", layout: span},
	Prefetch16:         {name: "PRE-FETCH(16)", layout: span},
	SynchronizeCache16: {name: "SYNCHRONIZE CACHE(16)", layout: span},
	WriteSame16:        {name: "WRITE SAME(16)", layout: span},
	WriteAtomic16:      {name: "WRITE ATOMIC(16)"},
	ServiceActionIn16: {name: "SERVICE ACTION IN(16)", layout: actions, action: map[byte]string{
		ReadCapacity16: "READ CAPACITY(16)", GetLBAStatus: "GET LBA STATUS"}},
	ReportLUNs: {name: "REPORT LUNS"},
	MaintenanceIn: {name: "MAINTENANCE IN", layout: actions, action: map[byte]string{
		ReportTargetPorts: "REPORT TARGET PORT GROUPS", ReportOpcodes: "REPORT SUPPORTED OPERATION CODES",
		ReportTMFs: "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS"}},
	MaintenanceOut:   {name: "MAINTENANCE OUT", layout: actions, action: map[byte]string{ReportTargetPorts: "SET TARGET PORT GROUPS"}},
	Read12:           {name: "READ(12)", layout: transfer},
	Write12:          {name: "WRITE(12)", layout: transfer},
	WriteVerify12:    {name: "WRITE AND VERIFY(12)", layout: transfer},
	Verify12:         {name: "VERIFY(12)", layout: span},
	ReadDefectData12: {name: "READ DEFECT DATA(12)"},
}

func lookup(b []byte) *known {
	if len(b) == 0 {
		return nil
	}
	return names[b[0]]
}

// Name returns the standard's name of a CDB's command, by its operation code and, where there is one,
// its service action. It allocates only for a command without a name.
func Name(b []byte) string {
	if len(b) == 0 {
		return "empty CDB"
	}
	k := lookup(b)
	if k == nil {
		return fmt.Sprintf("opcode %02Xh", b[0])
	}
	if k.layout == actions && len(b) > 1 {
		if s, ok := k.action[ServiceAction(b)]; ok {
			return s
		}
		return fmt.Sprintf("%s action %02Xh", k.name, ServiceAction(b))
	}
	return k.name
}
