package scsi

import (
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// An op is one row of an operation code table: one command.
type op struct {
	name   string
	length uint8 // of the CDB, in bytes
	resv   resvClass
	// attentive: the command does not fail on a unit attention condition (SAM-5 §5.14).
	attentive bool
	// prepare checks the CDB; false: the command has ended. Nil: there is nothing to check.
	prepare func(*LU, *Command) bool
	execute func(*LU, *Command) Outcome
}

// An opTable is what one kind of device offers: rows by operation code, and for some codes by service action.
type opTable struct {
	code    [256]*op
	actions [256]map[byte]*op
	// absent: there is no logical unit; what has no row ends LOGICAL UNIT NOT SUPPORTED.
	absent bool
}

// find returns the row of a CDB, or nil.
func (t *opTable) find(b []byte) *op {
	if len(b) == 0 {
		return nil
	}
	if row := t.code[b[0]]; row != nil {
		return row
	}
	if m := t.actions[b[0]]; m != nil && len(b) > 1 {
		return m[cdb.ServiceAction(b)]
	}
	return nil
}

// noRow ends a command that the LU does not have.
func (lu *LU) noRow(c *Command) bool {
	switch {
	case len(c.CDB) == 0:
		return c.badField(0, -1)
	case lu.ops.absent:
		return c.illegal(sense.LogicalUnitNotSupported)
	case lu.ops.actions[c.CDB[0]] != nil:
		return c.badField(1, 4) // the operation code is there, the service action is not
	}
	return c.illegal(sense.InvalidOpcode)
}

var (
	inquiryOp      = &op{"INQUIRY", 6, resvAllowed, true, prepareInquiry, executeInquiry}
	requestSenseOp = &op{"REQUEST SENSE", 6, resvAllowed, true, nil, executeRequestSense}
	reportLUNsOp   = &op{"REPORT LUNS", 12, resvAllowed, true, prepareReportLUNs, executeReportLUNs}
	testReadyOp    = &op{"TEST UNIT READY", 6, resvTest, false, nil, executeTestUnitReady}
)

// diskOps are the commands of a direct access block device.
var diskOps = &opTable{
	code: [256]*op{
		cdb.TestUnitReady:      testReadyOp,
		cdb.RequestSense:       requestSenseOp,
		cdb.Read6:              {"READ(6)", 6, resvRead, false, prepareRead, executeTransfer},
		cdb.Write6:             {"WRITE(6)", 6, resvWrite, false, prepareWrite, executeTransfer},
		cdb.Inquiry:            inquiryOp,
		cdb.Reserve6:           {"RESERVE(6)", 6, resvReserve, false, prepareReserve, executeReserve},
		cdb.Release6:           {"RELEASE(6)", 6, resvRelease, false, prepareReserve, executeRelease},
		cdb.ModeSense6:         {"MODE SENSE(6)", 6, resvRead, false, prepareModeSense, executeModeSense},
		cdb.ModeSelect6:        {"MODE SELECT(6)", 6, resvWrite, false, prepareModeSelect, executeModeSelect},
		cdb.StartStopUnit:      {"START STOP UNIT", 6, resvStart, false, prepareStartStop, executeStartStop},
		cdb.ReceiveDiagnostic:  {"RECEIVE DIAGNOSTIC RESULTS", 6, resvRead, false, prepareReceiveDiagnostic, executeReceiveDiagnostic},
		cdb.SendDiagnostic:     {"SEND DIAGNOSTIC", 6, resvWrite, false, prepareSendDiagnostic, executeSendDiagnostic},
		cdb.PreventAllow:       {"PREVENT ALLOW MEDIUM REMOVAL", 6, resvPrevent, false, preparePreventAllow, executePreventAllow},
		cdb.ReadCapacity10:     {"READ CAPACITY(10)", 10, resvAllowed, false, prepareReadCapacity10, executeReadCapacity10},
		cdb.Read10:             {"READ(10)", 10, resvRead, false, prepareRead, executeTransfer},
		cdb.Write10:            {"WRITE(10)", 10, resvWrite, false, prepareWrite, executeTransfer},
		cdb.WriteVerify10:      {"WRITE AND VERIFY(10)", 10, resvWrite, false, prepareWriteVerify, executeWriteVerify},
		cdb.Verify10:           {"VERIFY(10)", 10, resvRead, false, prepareVerify, executeVerify},
		cdb.Prefetch10:         {"PRE-FETCH(10)", 10, resvRead, false, preparePrefetch, executePrefetch},
		cdb.SynchronizeCache10: {"SYNCHRONIZE CACHE(10)", 10, resvWrite, false, prepareSynchronizeCache, executeSynchronizeCache},
		cdb.Reserve10:          {"RESERVE(10)", 10, resvReserve, false, prepareReserve, executeReserve},
		cdb.Release10:          {"RELEASE(10)", 10, resvRelease, false, prepareReserve, executeRelease},
		cdb.ModeSense10:        {"MODE SENSE(10)", 10, resvRead, false, prepareModeSense, executeModeSense},
		cdb.WriteSame10:        {"WRITE SAME(10)", 10, resvWrite, false, prepareWriteSame, executeWriteSame},
		cdb.Unmap:              {"UNMAP", 10, resvWrite, false, prepareUnmap, executeUnmap},
		cdb.ModeSelect10:       {"MODE SELECT(10)", 10, resvWrite, false, prepareModeSelect, executeModeSelect},
		cdb.Read16:             {"READ(16)", 16, resvRead, false, prepareRead, executeTransfer},
		cdb.CompareAndWrite:    {"COMPARE AND WRITE", 16, resvWrite, false, prepareCompareAndWrite, executeCompareAndWrite},
		cdb.Write16:            {"WRITE(16)", 16, resvWrite, false, prepareWrite, executeTransfer},
		cdb.OrWrite16:          {"ORWRITE(16)", 16, resvWrite, false, prepareOrWrite, executeOrWrite},
		cdb.WriteVerify16:      {"WRITE AND VERIFY(16)", 16, resvWrite, false, prepareWriteVerify, executeWriteVerify},
		cdb.Verify16:           {"VERIFY(16)", 16, resvRead, false, prepareVerify, executeVerify},
		cdb.Prefetch16:         {"PRE-FETCH(16)", 16, resvRead, false, preparePrefetch, executePrefetch},
		cdb.SynchronizeCache16: {"SYNCHRONIZE CACHE(16)", 16, resvWrite, false, prepareSynchronizeCache, executeSynchronizeCache},
		cdb.WriteSame16:        {"WRITE SAME(16)", 16, resvWrite, false, prepareWriteSame, executeWriteSame},
		cdb.ReportLUNs:         reportLUNsOp,
		cdb.Read12:             {"READ(12)", 12, resvRead, false, prepareRead, executeTransfer},
		cdb.Write12:            {"WRITE(12)", 12, resvWrite, false, prepareWrite, executeTransfer},
		cdb.WriteVerify12:      {"WRITE AND VERIFY(12)", 12, resvWrite, false, prepareWriteVerify, executeWriteVerify},
		cdb.Verify12:           {"VERIFY(12)", 12, resvRead, false, prepareVerify, executeVerify},
	},
	actions: [256]map[byte]*op{
		cdb.PersistentIn: {
			prReadKeys:        {"READ KEYS", 10, resvPersist, false, preparePrin, executeReadKeys},
			prReadReservation: {"READ RESERVATION", 10, resvPersist, false, preparePrin, executeReadReservation},
			prCapabilities:    {"REPORT CAPABILITIES", 10, resvPersist, false, preparePrin, executePRCapabilities},
			prReadFullStatus:  {"READ FULL STATUS", 10, resvPersist, false, preparePrin, executeReadFullStatus},
		},
		cdb.PersistentOut: {
			prRegister:          {"REGISTER", 10, resvPersist, false, prepareProut, executeProut},
			prReserve:           {"RESERVE", 10, resvPersist, false, prepareProut, executeProut},
			prRelease:           {"RELEASE", 10, resvPersist, false, prepareProut, executeProut},
			prClear:             {"CLEAR", 10, resvPersist, false, prepareProut, executeProut},
			prPreempt:           {"PREEMPT", 10, resvPersist, false, prepareProut, executeProut},
			prPreemptAndAbort:   {"PREEMPT AND ABORT", 10, resvPersist, false, prepareProut, executeProut},
			prRegisterAndIgnore: {"REGISTER AND IGNORE EXISTING KEY", 10, resvPersist, false, prepareProut, executeProut},
			prRegisterAndMove:   {"REGISTER AND MOVE", 10, resvPersist, false, prepareProut, executeProut},
		},
		cdb.ServiceActionIn16: {
			cdb.ReadCapacity16: {"READ CAPACITY(16)", 16, resvAllowed, false, nil, executeReadCapacity16},
			cdb.GetLBAStatus:   {"GET LBA STATUS", 16, resvRead, false, prepareLBAStatus, executeLBAStatus},
		},
		cdb.MaintenanceIn: {
			cdb.ReportOpcodes: {"REPORT SUPPORTED OPERATION CODES", 12, resvRead, false, prepareReportOpcodes, executeReportOpcodes},
			cdb.ReportTMFs:    {"REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", 12, resvRead, false, prepareReportTMFs, executeReportTMFs},
		},
	},
}

// controllerOps are the commands of the controller, which has no medium.
var controllerOps = &opTable{
	code: [256]*op{
		cdb.TestUnitReady: testReadyOp,
		cdb.RequestSense:  requestSenseOp,
		cdb.Inquiry:       inquiryOp,
		cdb.ReportLUNs:    reportLUNsOp,
	},
}

// absentOps are what a LUN without a logical unit answers (SAM-5, incorrect logical unit numbers).
var absentOps = &opTable{
	code: [256]*op{
		cdb.RequestSense: requestSenseOp,
		cdb.Inquiry:      inquiryOp,
		cdb.ReportLUNs:   reportLUNsOp,
	},
	absent: true,
}
