package scsi

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// REPORT SUPPORTED OPERATION CODES and REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4).

// REPORTING OPTIONS.
const (
	reportAll       = 0
	reportPlain     = 1 // one operation code, which has no service actions
	reportAction    = 2 // one service action
	reportEither    = 3 // one operation code, with the service action if it has such
	reportRCTD      = 0x80
	supportNot      = 0x01
	supportStandard = 0x03
)

func prepareReportOpcodes(lu *LU, c *Command) bool {
	code, action := c.CDB[3], binary.BigEndian.Uint16(c.CDB[4:])
	plain := lu.ops.actions[code] == nil
	switch option := c.CDB[2] & 0x07; {
	case option > reportEither:
		return c.badField(2, 2)
	case option == reportPlain && !plain:
		return c.badField(2, 2)
	case option == reportAction && plain && lu.ops.code[code] != nil:
		return c.badField(2, 2)
	case option == reportEither && plain && lu.ops.code[code] != nil && action != 0:
		return c.badField(4, -1)
	}
	return true
}

func executeReportOpcodes(lu *LU, c *Command) Outcome {
	timeouts := c.CDB[2]&reportRCTD != 0
	b := c.buffer(0)
	if c.CDB[2]&0x07 == reportAll {
		b = lu.appendAllOpcodes(append(b, 0, 0, 0, 0), timeouts)
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	} else {
		b = lu.appendOpcode(b, c.CDB[3], binary.BigEndian.Uint16(c.CDB[4:]), timeouts)
	}
	return c.reply(b, uint64(binary.BigEndian.Uint32(c.CDB[6:])))
}

// appendAllOpcodes appends a command descriptor for each command, in ascending order.
func (lu *LU) appendAllOpcodes(b []byte, timeouts bool) []byte {
	add := func(code, action, flags byte, row *op) {
		if timeouts {
			flags |= 0x02 // CTDP
		}
		b = append(b, code, 0, 0, action, 0, flags, 0, row.length)
		if timeouts {
			b = appendTimeouts(b, usageOf(code, action))
		}
	}
	for i := range 256 {
		code := byte(i)
		if row := lu.ops.code[code]; row != nil {
			add(code, 0, 0, row)
		}
		actions := make([]byte, 0, len(lu.ops.actions[code]))
		for action := range lu.ops.actions[code] {
			actions = append(actions, action)
		}
		slices.Sort(actions)
		for _, action := range actions {
			add(code, action, 0x01, lu.ops.actions[code][action]) // SERVACTV
		}
	}
	return b
}

// appendOpcode appends the one command parameter data.
func (lu *LU) appendOpcode(b []byte, code byte, action uint16, timeouts bool) []byte {
	row := lu.ops.code[code]
	switch m := lu.ops.actions[code]; {
	case m == nil:
		action = 0
	case action <= 0xff:
		row = m[byte(action)]
	}
	if row == nil {
		return append(b, 0, supportNot, 0, 0)
	}
	support := byte(supportStandard)
	if timeouts {
		support |= 0x80 // CTDP
	}
	b = append(b, 0, support, 0, row.length)
	u := usageOf(code, byte(action))
	b = append(b, lu.usageData(code, u)...)
	if timeouts {
		b = appendTimeouts(b, u)
	}
	return b
}

// appendTimeouts appends a command timeouts descriptor. The nominal time depends on the store: it is not indicated.
func appendTimeouts(b []byte, u *usage) []byte {
	b = append(b, 0, 0x0a, 0, 0, 0, 0, 0, 0)
	return binary.BigEndian.AppendUint32(b, u.timeout)
}

// A usage says which bits of a command's CDB are looked at, and how long an initiator should wait for it, in seconds.
type usage struct {
	code, action byte
	mask         string // hexadecimal; the operation code and the service action as they are
	timeout      uint32
}

// Recommended command timeouts, in seconds: what ends without the store, what moves data, and what may cover very much.
const (
	quick = 10
	moves = 60
	long  = 300
)

// usages has a row for each command that a disk may have, ascending.
var usages = [...]usage{
	{cdb.TestUnitReady, 0, "00 00 00 00 00 04", quick},
	{cdb.RequestSense, 0, "03 01 00 00 ff 04", quick},
	{cdb.Read6, 0, "08 1f ff ff ff 04", moves},
	{cdb.Write6, 0, "0a 1f ff ff ff 04", moves},
	{cdb.Inquiry, 0, "12 03 ff ff ff 04", quick},
	{cdb.ModeSelect6, 0, "15 13 00 00 ff 04", moves},
	{cdb.Reserve6, 0, "16 00 00 00 00 04", quick},
	{cdb.Release6, 0, "17 00 00 00 00 04", quick},
	{cdb.ModeSense6, 0, "1a 08 ff ff ff 04", quick},
	{cdb.StartStopUnit, 0, "1b 01 00 00 f7 04", moves},
	{cdb.ReceiveDiagnostic, 0, "1c 01 ff ff ff 04", quick},
	{cdb.SendDiagnostic, 0, "1d e4 00 ff ff 04", moves},
	{cdb.PreventAllow, 0, "1e 00 00 00 02 04", quick},
	{cdb.ReadCapacity10, 0, "25 00 ffffffff 00 00 01 04", quick},
	{cdb.Read10, 0, "28 f8 ffffffff 00 ffff 04", moves},
	{cdb.Write10, 0, "2a f8 ffffffff 00 ffff 04", moves},
	{cdb.WriteVerify10, 0, "2e fe ffffffff 00 ffff 04", moves},
	{cdb.Verify10, 0, "2f fe ffffffff 00 ffff 04", long},
	{cdb.Prefetch10, 0, "34 00 ffffffff 00 ffff 04", moves},
	{cdb.SynchronizeCache10, 0, "35 02 ffffffff 00 ffff 04", moves},
	{cdb.WriteSame10, 0, "41 ff ffffffff 00 ffff 04", long},
	{cdb.Unmap, 0, "42 01 00000000 00 ffff 04", long},
	{cdb.ModeSelect10, 0, "55 13 0000000000 ffff 04", moves},
	{cdb.Reserve10, 0, "56 00 0000000000 0000 04", quick},
	{cdb.Release10, 0, "57 00 0000000000 0000 04", quick},
	{cdb.ModeSense10, 0, "5a 18 ff ff 000000 ffff 04", quick},
	{cdb.PersistentIn, 0, "5e 00 0000000000 ffff 04", quick},
	{cdb.PersistentIn, 1, "5e 01 0000000000 ffff 04", quick},
	{cdb.PersistentIn, 2, "5e 02 0000000000 ffff 04", quick},
	{cdb.PersistentIn, 3, "5e 03 0000000000 ffff 04", quick},
	{cdb.PersistentOut, 0, "5f 00 ff 0000 ffffffff 04", moves},
	{cdb.PersistentOut, 1, "5f 01 ff 0000 ffffffff 04", moves},
	{cdb.PersistentOut, 2, "5f 02 ff 0000 ffffffff 04", moves},
	{cdb.PersistentOut, 3, "5f 03 ff 0000 ffffffff 04", moves},
	{cdb.PersistentOut, 4, "5f 04 ff 0000 ffffffff 04", moves},
	{cdb.PersistentOut, 5, "5f 05 ff 0000 ffffffff 04", moves},
	{cdb.PersistentOut, 6, "5f 06 ff 0000 ffffffff 04", moves},
	{cdb.PersistentOut, 7, "5f 07 ff 0000 ffffffff 04", moves},
	{cdb.Read16, 0, "88 f8 ffffffffffffffff ffffffff 00 04", moves},
	{cdb.CompareAndWrite, 0, "89 f8 ffffffffffffffff 000000ff 00 04", moves},
	{cdb.Write16, 0, "8a f8 ffffffffffffffff ffffffff 00 04", moves},
	{cdb.OrWrite16, 0, "8b f8 ffffffffffffffff ffffffff 00 04", moves},
	{cdb.WriteVerify16, 0, "8e fe ffffffffffffffff ffffffff 00 04", moves},
	{cdb.Verify16, 0, "8f fe ffffffffffffffff ffffffff 00 04", long},
	{cdb.Prefetch16, 0, "90 00 ffffffffffffffff ffffffff 00 04", moves},
	{cdb.SynchronizeCache16, 0, "91 02 ffffffffffffffff ffffffff 00 04", moves},
	{cdb.WriteSame16, 0, "93 ff ffffffffffffffff ffffffff 00 04", long},
	{cdb.ServiceActionIn16, cdb.ReadCapacity16, "9e 10 0000000000000000 ffffffff 00 04", quick},
	{cdb.ServiceActionIn16, cdb.GetLBAStatus, "9e 12 ffffffffffffffff ffffffff 00 04", moves},
	{cdb.ReportLUNs, 0, "a0 00 ff 000000 ffffffff 00 04", quick},
	{cdb.MaintenanceIn, cdb.ReportOpcodes, "a3 0c 87 ff ffff ffffffff 00 04", quick},
	{cdb.MaintenanceIn, cdb.ReportTMFs, "a3 0d 80 00 0000 ffffffff 00 04", quick},
	{cdb.Read12, 0, "a8 f8 ffffffff ffffffff 00 04", moves},
	{cdb.Write12, 0, "aa f8 ffffffff ffffffff 00 04", moves},
	{cdb.WriteVerify12, 0, "ae fe ffffffff ffffffff 00 04", moves},
	{cdb.Verify12, 0, "af fe ffffffff ffffffff 00 04", long},
}

// usageOf returns the row of a command; every row of the operation code tables has one, as a test holds.
func usageOf(code, action byte) *usage {
	for i := range usages {
		if u := &usages[i]; u.code == code && u.action == action {
			return u
		}
	}
	panic("scsi: " + cdb.Name([]byte{code, action}) + " has no CDB usage data")
}

// usageData returns the CDB usage data of a command here: a bit is set where it is both looked at and not always refused.
func (lu *LU) usageData(code byte, u *usage) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(u.mask, " ", ""))
	if err != nil {
		panic("scsi: CDB usage data " + u.mask)
	}
	refused := byte(0)
	switch code {
	case cdb.Read10, cdb.Read12, cdb.Read16, cdb.Write10, cdb.Write12, cdb.Write16, cdb.CompareAndWrite, cdb.OrWrite16:
		if refused = 0xe0; lu.fua == noFUA {
			refused |= cdb.DPO | cdb.FUA
		}
	case cdb.Verify10, cdb.Verify12, cdb.Verify16, cdb.WriteVerify10, cdb.WriteVerify12, cdb.WriteVerify16:
		if refused = 0xe0 | 0x08; lu.fua == noFUA {
			refused |= cdb.DPO
		}
	case cdb.WriteSame10, cdb.WriteSame16:
		refused = 0xe0 | sameAnchor | 0x06
		if !lu.unmapSame {
			refused |= sameUnmap
		}
		if code == cdb.WriteSame10 {
			refused |= sameNDOB
		}
	case cdb.Unmap:
		refused = 0x01
	case cdb.Inquiry:
		refused = inquiryCmdDt
	case cdb.ModeSelect6, cdb.ModeSelect10:
		refused = selectSP | selectRTD
	case cdb.SendDiagnostic:
		refused = diagnosticCode
		b[3], b[4] = 0, 0
	case cdb.StartStopUnit:
		if b[4] &^= 0xf0; !lu.removable {
			b[4] &^= startLOEJ
		}
	case cdb.PreventAllow:
		b[4] = 0x01
	}
	b[1] &^= refused
	return b
}

// Task management functions, byte 0 and byte 1 of the parameter data.
var tmfBits = [...]struct {
	f     sam.TMF
	index int
	bit   byte
}{
	{sam.AbortTask, 0, 0x80}, {sam.AbortTaskSet, 0, 0x40}, {sam.ClearACA, 0, 0x20}, {sam.ClearTaskSet, 0, 0x10}, {sam.LogicalUnitReset, 0, 0x08},
	{sam.QueryTask, 0, 0x04}, {sam.TargetWarmReset, 0, 0x02}, {sam.TargetColdReset, 0, 0x02},
	{sam.QueryAsyncEvent, 1, 0x04}, {sam.QueryTaskSet, 1, 0x02}, {sam.ITNexusReset, 1, 0x01},
}

// defaultFunctions is what package session carries out, those of RFC 7144 where a session has agreed on them.
var defaultFunctions = []sam.TMF{sam.AbortTask, sam.AbortTaskSet, sam.ClearACA, sam.ClearTaskSet, sam.LogicalUnitReset,
	sam.TargetWarmReset, sam.TargetColdReset, sam.QueryTask, sam.QueryTaskSet, sam.ITNexusReset, sam.QueryAsyncEvent}

func prepareReportTMFs(_ *LU, c *Command) bool {
	if binary.BigEndian.Uint32(c.CDB[6:]) < 4 {
		return c.badField(6, -1) // SPC-4: at least four
	}
	return true
}

func executeReportTMFs(lu *LU, c *Command) Outcome {
	n := 4
	if c.CDB[2]&0x80 != 0 {
		n = 16 // REPD: with timeouts, which are not indicated
	}
	b := c.buffer(n)
	for _, t := range tmfBits {
		if slices.Contains(lu.functions, t.f) && !(c.Nexus != nil && slices.Contains(c.Nexus.Without, t.f)) {
			b[t.index] |= t.bit
		}
	}
	b[3] = byte(n - 4)
	return c.reply(b, uint64(binary.BigEndian.Uint32(c.CDB[6:])))
}
