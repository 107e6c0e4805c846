package scsi

import (
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// A resvClass says what a reservation of another nexus does to a command (SPC-4 and SBC-3, the tables of commands allowed in the presence of reservations).
type resvClass uint8

const (
	resvAllowed  resvClass = iota // never conflicts
	resvRead                      // conflicts with exclusive access
	resvWrite                     // conflicts with write exclusive and exclusive access
	resvConflict                  // conflicts with every reservation of another
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
	testReadyOp    = &op{"TEST UNIT READY", 6, resvAllowed, false, nil, executeTestUnitReady}
)

// diskOps are the commands of a direct access block device.
var diskOps = &opTable{
	code: [256]*op{
		cdb.TestUnitReady:      testReadyOp,
		cdb.RequestSense:       requestSenseOp,
		cdb.Read6:              {"READ(6)", 6, resvRead, false, prepareRead, executeTransfer},
		cdb.Write6:             {"WRITE(6)", 6, resvWrite, false, prepareWrite, executeTransfer},
		cdb.Inquiry:            inquiryOp,
		cdb.ModeSelect6:        {"MODE SELECT(6)", 6, resvConflict, false, prepareModeSelect, executeModeSelect},
		cdb.ModeSense6:         {"MODE SENSE(6)", 6, resvConflict, false, prepareModeSense, executeModeSense},
		cdb.StartStopUnit:      {"START STOP UNIT", 6, resvConflict, false, prepareStartStop, executeStartStop},
		cdb.ReceiveDiagnostic:  {"RECEIVE DIAGNOSTIC RESULTS", 6, resvConflict, false, prepareReceiveDiagnostic, executeReceiveDiagnostic},
		cdb.SendDiagnostic:     {"SEND DIAGNOSTIC", 6, resvConflict, false, prepareSendDiagnostic, executeSendDiagnostic},
		cdb.PreventAllow:       {"PREVENT ALLOW MEDIUM REMOVAL", 6, resvConflict, false, preparePreventAllow, executeGood},
		cdb.ReadCapacity10:     {"READ CAPACITY(10)", 10, resvAllowed, false, prepareReadCapacity10, executeReadCapacity10},
		cdb.Read10:             {"READ(10)", 10, resvRead, false, prepareRead, executeTransfer},
		cdb.Write10:            {"WRITE(10)", 10, resvWrite, false, prepareWrite, executeTransfer},
		cdb.WriteVerify10:      {"WRITE AND VERIFY(10)", 10, resvWrite, false, prepareWriteVerify, executeWriteVerify},
		cdb.Verify10:           {"VERIFY(10)", 10, resvRead, false, prepareVerify, executeVerify},
		cdb.Prefetch10:         {"PRE-FETCH(10)", 10, resvRead, false, preparePrefetch, executePrefetch},
		cdb.SynchronizeCache10: {"SYNCHRONIZE CACHE(10)", 10, resvWrite, false, prepareSynchronizeCache, executeSynchronizeCache},
		cdb.WriteSame10:        {"WRITE SAME(10)", 10, resvWrite, false, prepareWriteSame, executeWriteSame},
		cdb.Unmap:              {"UNMAP", 10, resvWrite, false, prepareUnmap, executeUnmap},
		cdb.ModeSelect10:       {"MODE SELECT(10)", 10, resvConflict, false, prepareModeSelect, executeModeSelect},
		cdb.ModeSense10:        {"MODE SENSE(10)", 10, resvConflict, false, prepareModeSense, executeModeSense},
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
