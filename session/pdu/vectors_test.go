package pdu

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// A vector is one PDU typed by hand from the layouts of RFC 7143 section 11: the bytes, how
// the setters make them, what Describe says of them.
type vector struct {
	section string
	wire    string // header, then ahs and data as in the fields below
	ahs     string
	data    string
	build   func(h *Header)
	words   string
}

var isid = [6]byte{0x40, 0x00, 0x01, 0x37, 0x00, 0x02}

var vectors = []vector{
	{
		section: "11.3 SCSI Command, write with immediate data",
		wire: "01 a1 00 00  00 00 10 00  00 01 00 00 00 00 00 00  00 00 00 02  00 00 20 00" +
			"00 00 00 05  00 00 00 09  2a 00 00 00 00 00 00 00  10 00 00 00 00 00 00 00",
		build: func(h *Header) {
			c := (*SCSICommand)(h)
			h[0] = byte(OpSCSICommand)
			c.SetFlags(true, false, true, sam.Simple)
			h.SetDataLen(4096)
			h.SetLUN(sam.NewLUN(1))
			h.SetITT(2)
			c.SetEDTL(8192)
			h.SetCmdSN(5)
			h.SetExpStatSN(9)
			copy(c.CDB(), []byte{0x2a, 8: 0x10})
		},
		words: "SCSI Command itt=2 cmdsn=5 expstatsn=9 F W attr=simple lun=1 edtl=8192 imm=4096 cdb=2a000000000000001000",
	},
	{
		section: "11.3 and 11.2.2: bidirectional, a CDB of 32 bytes, immediate delivery",
		wire: "41 e2 00 00  07 00 00 00  40 ff 00 00 00 00 00 00  00 00 00 03  00 00 02 00" +
			"00 00 00 06  00 00 00 0a  7f 00 00 00 00 00 00 18  00 0b 00 00 00 00 00 00",
		ahs:   "0011 01 00 000102030405060708090a0b0c0d0e0f 0005 02 00 00000400",
		words: "SCSI Command itt=3 cmdsn=6 expstatsn=10 I F R W attr=ordered lun=255 edtl=512 cdb=7f00000000000018000b000000000000000102030405060708090a0b0c0d0e0f bidi=1024",
		build: func(h *Header) {
			c := (*SCSICommand)(h)
			h[0] = flagImmed | byte(OpSCSICommand)
			c.SetFlags(true, true, true, sam.Ordered)
			h.SetAHSLen(28)
			h.SetLUN(0x40ff << 48)
			h.SetITT(3)
			c.SetEDTL(512)
			h.SetCmdSN(6)
			h.SetExpStatSN(10)
			copy(c.CDB(), []byte{0x7f, 7: 0x18, 9: 0x0b})
		},
	},
	{
		section: "11.4 SCSI Response, CHECK CONDITION with sense and an underflow",
		wire: "21 82 00 02  00 00 00 14  00 00 00 00 00 00 00 00  00 00 00 02  00 00 00 00" +
			"00 00 00 0a  00 00 00 06  00 00 00 26  00 00 00 01  00 00 00 00  00 00 02 00",
		data: "0012 70 00 05 00000000 0a 00000000 24 00 00 0000 00",
		build: func(h *Header) {
			r := (*SCSIResponse)(h)
			r.Init(2, sam.CheckCondition, Underflow, 512)
			h.SetDataLen(20)
			h.SetStatSN(10)
			h.SetWindow(6, 38)
			r.SetExpDataSN(1)
		},
		words: "SCSI Response itt=2 statsn=10 expcmdsn=6 maxcmdsn=38 status=CHECK CONDITION under=512 expdatasn=1 len=20 sense=5/24/00",
	},
	{
		section: "11.5 Task Management Function Request",
		wire: "42 81 00 00  00 00 00 00  00 01 00 00 00 00 00 00  00 00 00 04  00 00 00 02" +
			"00 00 00 06  00 00 00 0a  00 00 00 05  00 00 00 00  00 00 00 00  00 00 00 00",
		build: func(h *Header) {
			r := (*TaskMgmtReq)(h)
			h[0] = flagImmed | byte(OpTaskMgmtReq)
			r.SetFunction(sam.AbortTask)
			h.SetLUN(sam.NewLUN(1))
			h.SetITT(4)
			r.SetRefTag(2)
			h.SetCmdSN(6)
			h.SetExpStatSN(10)
			r.SetRefCmdSN(5)
		},
		words: "Task Management Request itt=4 cmdsn=6 expstatsn=10 I function=ABORT TASK lun=1 reftag=2 refcmdsn=5",
	},
	{
		section: "11.6 Task Management Function Response",
		wire: "22 80 01 00  00 00 00 00  00 00 00 00 00 00 00 00  00 00 00 04  00 00 00 00" +
			"00 00 00 0b  00 00 00 06  00 00 00 26  00 00 00 00  00 00 00 00  00 00 00 00",
		build: func(h *Header) {
			(*TaskMgmtResp)(h).Init(4, TaskDoesNotExist)
			h.SetStatSN(11)
			h.SetWindow(6, 38)
		},
		words: "Task Management Response itt=4 statsn=11 expcmdsn=6 maxcmdsn=38 response=task does not exist",
	},
	{
		section: "11.7 SCSI Data-Out",
		wire: "05 80 00 00  00 00 08 00  00 01 00 00 00 00 00 00  00 00 00 02  00 00 00 01" +
			"00 00 00 00  00 00 00 0a  00 00 00 00  00 00 00 03  00 00 18 00  00 00 00 00",
		build: func(h *Header) {
			(*DataOut)(h).Init(sam.NewLUN(1), 2, 1, 3, 6144, 2048, true)
			h.SetExpStatSN(10)
		},
		words: "SCSI Data-Out itt=2 ttt=1 expstatsn=10 F lun=1 datasn=3 off=6144 len=2048",
	},
	{
		section: "11.7 SCSI Data-In with status",
		wire: "25 83 00 00  00 00 02 00  00 00 00 00 00 00 00 00  00 00 00 02  ff ff ff ff" +
			"00 00 00 0a  00 00 00 06  00 00 00 26  00 00 00 02  00 00 10 00  00 00 01 00",
		build: func(h *Header) {
			d := (*DataIn)(h)
			d.Init(2, 2, 4096, 512, true)
			d.SetStatus(sam.Good, Underflow, 256)
			h.SetStatSN(10)
			h.SetWindow(6, 38)
		},
		words: "SCSI Data-In itt=2 statsn=10 expcmdsn=6 maxcmdsn=38 F datasn=2 off=4096 len=512 status=GOOD under=256",
	},
	{
		section: "11.8 R2T",
		wire: "31 80 00 00  00 00 00 00  00 01 00 00 00 00 00 00  00 00 00 02  00 00 00 01" +
			"00 00 00 09  00 00 00 06  00 00 00 25  00 00 00 00  00 00 10 00  00 00 20 00",
		build: func(h *Header) {
			(*R2T)(h).Init(sam.NewLUN(1), 2, 1, 0, 4096, 8192)
			h.SetStatSN(9)
			h.SetWindow(6, 37)
		},
		words: "R2T itt=2 ttt=1 statsn=9 expcmdsn=6 maxcmdsn=37 lun=1 r2tsn=0 off=4096 len=8192",
	},
	{
		section: "11.9 Asynchronous Message, logout requested",
		wire: "32 80 00 00  00 00 00 00  00 00 00 00 00 00 00 00  ff ff ff ff  00 00 00 00" +
			"00 00 00 09  00 00 00 06  00 00 00 25  01 00 00 00  00 00 00 1e  00 00 00 00",
		build: func(h *Header) {
			(*Async)(h).Init(0, AsyncLogout, 0, 0, 0, 30)
			h.SetStatSN(9)
			h.SetWindow(6, 37)
		},
		words: "Asynchronous Message statsn=9 expcmdsn=6 maxcmdsn=37 event=logout requested params=0,0,30",
	},
	{
		section: "11.10 Text Request",
		wire: "04 80 00 00  00 00 00 10  00 00 00 00 00 00 00 00  00 00 00 07  ff ff ff ff" +
			"00 00 00 08  00 00 00 0c  00 00 00 00  00 00 00 00  00 00 00 00  00 00 00 00",
		data: hex.EncodeToString([]byte("SendTargets=All\x00")),
		build: func(h *Header) {
			h[0] = byte(OpTextReq)
			(*TextReq)(h).SetFlags(true, false)
			h.SetDataLen(16)
			h.SetITT(7)
			h.SetTTT(NoTag)
			h.SetCmdSN(8)
			h.SetExpStatSN(12)
		},
		words: "Text Request itt=7 cmdsn=8 expstatsn=12 F keys=[SendTargets=All]",
	},
	{
		section: "11.11 Text Response that goes on",
		wire: "24 40 00 00  00 00 00 08  00 00 00 00 00 00 00 00  00 00 00 07  00 00 00 21" +
			"00 00 00 0c  00 00 00 09  00 00 00 28  00 00 00 00  00 00 00 00  00 00 00 00",
		build: func(h *Header) {
			(*TextResp)(h).Init(7, 0x21, 8, false, true)
			h.SetStatSN(12)
			h.SetWindow(9, 40)
		},
		words: "Text Response itt=7 ttt=33 statsn=12 expcmdsn=9 maxcmdsn=40 C len=8",
	},
	{
		section: "11.12 Login Request",
		wire: "43 81 00 00  00 00 00 00  40 00 01 37 00 02  00 05  00 00 00 01  00 07 00 00" +
			"00 00 00 01  00 00 00 00  00 00 00 00  00 00 00 00  00 00 00 00  00 00 00 00",
		build: func(h *Header) {
			r := (*LoginReq)(h)
			h[0] = flagImmed | byte(OpLoginReq)
			r.SetFlags(true, false, SecurityNegotiation, OperationalStage)
			r.SetISID(isid)
			r.SetTSIH(5)
			h.SetITT(1)
			r.SetCID(7)
			h.SetCmdSN(1)
		},
		words: "Login Request itt=1 cmdsn=1 expstatsn=0 I T csg=security nsg=operational isid=400001370002 tsih=5 cid=7",
	},
	{
		section: "11.13 Login Response, refused",
		wire: "23 04 00 00  00 00 00 00  40 00 01 37 00 02  00 00  00 00 00 01  00 00 00 00" +
			"00 00 00 01  00 00 00 01  00 00 00 21  02 03 00 00  00 00 00 00  00 00 00 00",
		build: func(h *Header) {
			(*LoginResp)(h).Init(1, isid, 0, TargetNotFound, false, false, OperationalStage, 0, 0)
			h.SetStatSN(1)
			h.SetWindow(1, 33)
		},
		words: "Login Response itt=1 statsn=1 expcmdsn=1 maxcmdsn=33 csg=operational isid=400001370002 tsih=0 status=0203 (not found)",
	},
	{
		section: "11.14 Logout Request",
		wire: "46 81 00 00  00 00 00 00  00 00 00 00 00 00 00 00  00 00 00 08  00 03 00 00" +
			"00 00 00 09  00 00 00 0d  00 00 00 00  00 00 00 00  00 00 00 00  00 00 00 00",
		build: func(h *Header) {
			r := (*LogoutReq)(h)
			h[0] = flagImmed | byte(OpLogoutReq)
			r.SetReason(LogoutCloseConnection)
			h.SetITT(8)
			r.SetCID(3)
			h.SetCmdSN(9)
			h.SetExpStatSN(13)
		},
		words: "Logout Request itt=8 cmdsn=9 expstatsn=13 I reason=1 cid=3",
	},
	{
		section: "11.15 Logout Response",
		wire: "26 80 00 00  00 00 00 00  00 00 00 00 00 00 00 00  00 00 00 08  00 00 00 00" +
			"00 00 00 0d  00 00 00 09  00 00 00 29  00 00 00 00  00 02 00 14  00 00 00 00",
		build: func(h *Header) {
			(*LogoutResp)(h).Init(8, LogoutSuccess, 2, 20)
			h.SetStatSN(13)
			h.SetWindow(9, 41)
		},
		words: "Logout Response itt=8 statsn=13 expcmdsn=9 maxcmdsn=41 response=0 time2wait=2 time2retain=20",
	},
	{
		section: "11.16 SNACK Request",
		wire: "10 80 00 00  00 00 00 00  00 01 00 00 00 00 00 00  00 00 00 02  ff ff ff ff" +
			"00 00 00 00  00 00 00 0d  00 00 00 00  00 00 00 00  00 00 00 01  00 00 00 02",
		words: "SNACK Request itt=2 expstatsn=13 type=0 lun=1 begrun=1 runlength=2",
	},
	{
		section: "11.17 Reject",
		wire: "3f 80 09 00  00 00 00 30  00 00 00 00 00 00 00 00  ff ff ff ff  00 00 00 00" +
			"00 00 00 0e  00 00 00 09  00 00 00 29  00 00 00 00  00 00 00 00  00 00 00 00",
		data: "05 80 00 00 00 00 08 00 0001000000000000 00000002 00000001" + strings.Repeat("00", 24),
		build: func(h *Header) {
			(*Reject)(h).Init(RejectInvalidField)
			h.SetStatSN(14)
			h.SetWindow(9, 41)
		},
		words: "Reject statsn=14 expcmdsn=9 maxcmdsn=41 reason=invalid PDU field of=SCSI Data-Out itt=2",
	},
	{
		section: "11.18 NOP-Out",
		wire: "40 80 00 00  00 00 00 00  00 01 00 00 00 00 00 00  ff ff ff ff  00 00 00 09" +
			"00 00 00 0a  00 00 00 0f  00 00 00 00  00 00 00 00  00 00 00 00  00 00 00 00",
		build: func(h *Header) {
			(*NOPOut)(h).Init(sam.NewLUN(1), NoTag, 9, true, 0)
			h.SetCmdSN(10)
			h.SetExpStatSN(15)
		},
		words: "NOP-Out ttt=9 cmdsn=10 expstatsn=15 I lun=1",
	},
	{
		section: "11.19 NOP-In",
		wire: "20 80 00 00  00 00 00 04  00 00 00 00 00 00 00 00  00 00 00 0b  ff ff ff ff" +
			"00 00 00 0f  00 00 00 0a  00 00 00 2a  00 00 00 00  00 00 00 00  00 00 00 00",
		build: func(h *Header) {
			(*NOPIn)(h).Init(0, 11, NoTag, 4)
			h.SetStatSN(15)
			h.SetWindow(10, 42)
		},
		words: "NOP-In itt=11 statsn=15 expcmdsn=10 maxcmdsn=42 lun=0 len=4",
	},
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	if s == "" {
		return nil
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// MUST 7143 §11: what is sent has its numbers in network byte order, and reserved bits and fields are 0
//
// MUST 7143 §11.2.1.6: DataSegmentLength counts the data without its pad
//
// MUST 7143 §11.4.7: sense data comes behind its length in the data segment of the response
//
// MUST 7143 §11.9: an Asynchronous Message has the reserved initiator task tag
//
// MUST 7143 §11.17.4: the data segment of a Reject is the whole header of what is rejected
func TestVectors(t *testing.T) {
	seen := make(map[Opcode]bool)
	for _, v := range vectors {
		t.Run(v.section, func(t *testing.T) {
			wire := unhex(t, v.wire)
			if len(wire) != HeaderLen {
				t.Fatalf("vector of %d bytes", len(wire))
			}
			h := HeaderAt(wire)
			seen[h.Opcode()] = true
			ahs, data := unhex(t, v.ahs), unhex(t, v.data)
			if len(ahs) != h.AHSLen() || data != nil && len(data) != h.DataLen() {
				t.Fatalf("ahs %d of %d, data %d of %d bytes", len(ahs), h.AHSLen(), len(data), h.DataLen())
			}
			if got := Describe(h, ahs, data); got != v.words {
				t.Errorf("Describe:\n got %s\nwant %s", got, v.words)
			}
			if v.build != nil {
				var built Header
				if h.Opcode()&0x20 != 0 {
					// A target builds on memory that was another PDU's.
					for i := range built {
						built[i] = 0xff
					}
				}
				v.build(&built)
				if built != *h {
					t.Errorf("setters made\n     % x\nwant % x", built[:], h[:])
				}
			}
			if h.Opcode()&0x20 == 0 {
				if f := Check(h); f != nil {
					t.Errorf("Check: %v", f)
				}
			}
		})
	}
	for op := range opcodeNames {
		if !seen[op] {
			t.Errorf("no vector of %v", op)
		}
	}
}

// TestGettersDoNotAllocate runs every setter and getter that a vector uses.
func TestGettersDoNotAllocate(t *testing.T) {
	for _, v := range vectors {
		if v.build == nil {
			continue
		}
		h := HeaderAt(unhex(t, v.wire))
		ahs := unhex(t, v.ahs)
		n := testing.AllocsPerRun(100, func() {
			v.build(h)
			if Check(h) != nil {
				sink++
			}
			_, sinkFault = ParseAHS(ahs)
			sink += uint64(h.WireLen()) + uint64(h.LUN()) + uint64(h.ITT()) + uint64(h.TTT()) + uint64(h.CmdSN()) + uint64(h.ExpStatSN()) +
				uint64(h.StatSN()) + uint64(h.ExpCmdSN()) + uint64(h.MaxCmdSN()) + uint64(Digest(h[:]))
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", v.section, n)
		}
	}
}

var (
	sink      uint64
	sinkFault *Fault
)

func TestTypedGetters(t *testing.T) {
	var h Header
	c := (*SCSICommand)(&h)
	c.SetFlags(false, true, false, sam.HeadOfQueue)
	if !c.Read() || c.Write() || h.Final() || c.Attr() != sam.HeadOfQueue {
		t.Error("SCSI Command flags")
	}
	c.SetFlags(true, false, true, sam.ACA)
	if c.Read() || !c.Write() || !h.Final() || c.Attr() != sam.ACA {
		t.Error("SCSI Command flags again")
	}
	d := (*DataIn)(&h)
	d.Init(1, 2, 3, 4, false)
	if d.HasStatus() || d.Ack() || h.Final() || d.DataSN() != 2 || d.Offset() != 3 || h.DataLen() != 4 {
		t.Error("Data-In")
	}
	d.SetStatus(sam.TaskAborted, Overflow, 9)
	if !d.HasStatus() || !h.Final() || d.Status() != sam.TaskAborted || d.Residual() != Overflow || d.ResidualCount() != 9 {
		t.Error("Data-In with status")
	}
	l := (*LoginReq)(&h)
	h = Header{}
	l.SetFlags(true, false, OperationalStage, FullFeaturePhase)
	l.SetISID(isid)
	l.SetTSIH(0xfffe)
	l.SetCID(0x1234)
	h[2], h[3] = 3, 1
	if !l.Transit() || l.Continue() || l.CSG() != OperationalStage || l.NSG() != FullFeaturePhase || l.ISID() != isid || l.TSIH() != 0xfffe ||
		l.CID() != 0x1234 || l.VersionMax() != 3 || l.VersionMin() != 1 {
		t.Error("Login Request")
	}
	r := (*LoginResp)(&h)
	r.Init(7, isid, 1, OutOfResources, false, true, SecurityNegotiation, 0, 12)
	r.SetTSIH(77)
	if r.Transit() || !r.Continue() || r.TSIH() != 77 || r.Status() != OutOfResources || h.DataLen() != 12 || h.ITT() != 7 {
		t.Error("Login Response")
	}
	s := (*SCSIResponse)(&h)
	s.Init(5, sam.Busy, Overflow, 11)
	if s.Response() != CommandCompleted || s.Status() != sam.Busy || s.Residual() != Overflow || s.ResidualCount() != 11 {
		t.Error("SCSI Response")
	}
}
