package session

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the transcripts with what happens now")

// A transcript is a text file: lines that begin with "<" are what the caller does or what comes in, the lines behind each
// are what the session asks for. Everything else is a comment. A PDU with the word bad has a wrong data digest. The inputs:
//
//	< session [cmdsn=N] [window=N] [r2t=yes] [imm=no] [first=N] [burst=N] [mrdsl=N] [xmit=N] [outstanding=N] [nop=SECONDS] [discovery]
//	          [level=N] [reporting=fastabort]   iSCSIProtocolLevel, TaskReporting
//	< cmd itt=N [sn=N] [lun=N] [r|w] [edtl=N] [imm=N] [nof] [I] [cdb=HEX]   SCSI Command; sn is the next by itself
//	< begun itt=N [want=N]        the CDB is good and needs want bytes
//	< done itt=N [status=N] [data=N] [moved=N] [sense=HEX] [failed]
//	< executing itt=N             it goes on in the background
//	< data itt=N [ttt=N] [sn=N] [off=N] len=N [f]   Data-Out
//	< tmf itt=N fn=N [ref=N] [refsn=N] [lun=N] [sn=N] [I]
//	< background                  every command that begins from now on goes on in the background
//	< abortall                    the caller aborts all tasks, and shows the window
//	< abortset                    it aborts all tasks for the function that waits
//	< third [tell]                a function of another session aborts all tasks, and TAS is 1
//	< queried [absent] [pending=N] [next=N]   there is such a LU, and so many unit attentions
//	< event sense=HEX [lun=N]     an asynchronous message
//	< settled | tmfdone [absent] | nop itt=N [ttt=N] [len=N] [I] [sn=N]
//	< text itt=N [ttt=N] [c] [nof] [sn=N] KEYS… | targets KEYS… | refuse
//	< badheader                   a header with a wrong digest came
//	< logout itt=N [reason=N] [cid=N] [sn=N] | op=HEX (any other opcode) | tick SECONDS | lost | asklogout
type transcript struct {
	t     *testing.T
	s     *Session
	c     *Conn
	pool  Pool
	now   int64
	sn    pdu.SN
	tasks map[uint32]*Task
	imm   map[uint32][]byte
	aborts,
	tmfs []*TMF
	background bool
}

const second = int64(1e9)

func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) { runTranscript(t, f) })
	}
}

func runTranscript(t *testing.T, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	x := &transcript{t: t, tasks: map[uint32]*Task{}, imm: map[uint32][]byte{}}
	var out strings.Builder
	for n, line := range strings.Split(strings.TrimRight(string(text), "\n"), "\n") {
		if strings.HasPrefix(line, "  ") {
			continue // what was asked for: made anew below
		}
		fmt.Fprintln(&out, line)
		if in, ok := strings.CutPrefix(line, "< "); ok {
			acts, err := x.do(in)
			if err != nil {
				t.Fatalf("%s:%d: %v", path, n+1, err)
			}
			x.describe(&out, acts)
			x.account(path, n+1)
		}
	}
	if out.String() == string(text) {
		return
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, got := strings.Split(string(text), "\n"), strings.Split(out.String(), "\n")
	for i := range got {
		if i >= len(want) || got[i] != want[i] {
			t.Fatalf("%s:%d: got\n%s\nwant\n%s", path, i+1, got[i], strings.Join(want[min(i, len(want)):min(i+1, len(want))], ""))
		}
	}
	t.Fatalf("%s: more lines than happen", path)
}

// account checks what the session says that it keeps.
func (x *transcript) account(path string, line int) {
	kept := 0
	for _, p := range x.s.held {
		if p.conn != nil {
			kept += pdu.HeaderLen + len(p.ahs) + len(p.data)
		}
	}
	if kept += cap(x.s.text.in) + cap(x.s.text.out); kept != x.s.Kept() {
		x.t.Errorf("%s:%d: %d bytes are kept, it says %d", path, line, kept, x.s.Kept())
	}
}

// args are the words of a line: name=value, or a bare word.
type args map[string]string

func (a args) num(name string, def uint32) uint32 {
	v, ok := a[name]
	if !ok {
		return def
	}
	n, err := strconv.ParseInt(v, 0, 64)
	if err != nil {
		panic(err)
	}
	return uint32(n)
}

func (a args) has(name string) bool { _, ok := a[name]; return ok }

func (x *transcript) do(in string) ([]Action, error) {
	words := strings.Fields(in)
	a := args{}
	for _, w := range words[1:] {
		k, v, _ := strings.Cut(w, "=")
		a[k] = v
	}
	itt := a.num("itt", pdu.NoTag)
	switch words[0] {
	case "session":
		return nil, x.open(a)
	case "begun":
		t := x.tasks[itt]
		want := a.num("want", 0)
		if x.s.Begun(t, want) {
			return nil, nil
		}
		return x.s.Collect(t, make([]byte, want), x.imm[itt], nil), nil
	case "background":
		x.background = true
		return nil, nil
	case "abortall":
		return x.s.ShowWindow(x.s.AbortTasks(nil, false, func(*Task) bool { return true }, nil)), nil
	case "abortset":
		return x.s.AbortTasks(x.tmfs[0], false, func(*Task) bool { return true }, nil), nil
	case "third":
		other := New(sam.Nexus{Initiator: "iqn.o"}, 2, login.Normal, login.Defaults().Params, 1, Limits{}, &x.pool)
		m := &TMF{Function: sam.ClearTaskSet, conn: other.AddConn(0, 1, x.now)}
		return x.s.AbortTasks(m, a.has("tell"), func(*Task) bool { return true }, nil), nil
	case "noreset":
		x.s.NoReset = true
		return nil, nil
	case "queried":
		m := x.tmfs[0]
		x.tmfs = x.tmfs[1:]
		return x.s.TMFQueried(m, !a.has("absent"), a.num("next", 0), int(a.num("pending", 0)), nil), nil
	case "event":
		b, err := hex.DecodeString(a["sense"])
		return x.s.Event(sam.NewLUN(uint16(a.num("lun", 1))), b, nil), err
	case "executing":
		x.s.Executing(x.tasks[itt])
		return nil, nil
	case "done":
		r := Result{Status: sam.Status(a.num("status", 0)), Moved: a.num("moved", 0), Failed: a.has("failed")}
		if n := a.num("data", 0); n != 0 {
			r.Data = make([]byte, n)
		}
		r.Sense, _ = hex.DecodeString(a["sense"])
		return x.s.Completed(x.tasks[itt], r, nil), nil
	case "settled":
		m := x.aborts[0]
		x.aborts = x.aborts[1:]
		return m.Settled(nil), nil
	case "tmfdone":
		m := x.tmfs[0]
		x.tmfs = x.tmfs[1:]
		return x.s.TMFDone(m, !a.has("absent"), nil), nil
	case "targets":
		return x.s.TextReply(keys(words[1:]), nil), nil
	case "refuse":
		return x.s.TextRefuse(nil), nil
	case "tick":
		secs, err := strconv.ParseInt(words[1], 10, 64)
		due := x.s.NextTick()
		x.now += secs * second
		acts := x.s.Tick(x.now, nil)
		switch next := x.s.NextTick(); {
		case err != nil:
		case len(acts) != 0 && (due == 0 || due > x.now):
			err = fmt.Errorf("something is done at %d s, and NextTick had said %d ns", x.now/second, due)
		case len(acts) == 0 && next != 0 && next <= x.now:
			err = fmt.Errorf("nothing is done at %d s, and NextTick says %d ns again", x.now/second, next)
		}
		return acts, err
	case "lost":
		acts, _ := x.s.ConnLost(x.c, nil)
		return acts, nil
	case "badheader":
		return x.s.DamagedHeader(x.c, nil), nil
	case "asklogout":
		return x.s.AskLogout(x.now, nil), nil
	}
	h, data, err := x.pdu(words, a, itt)
	if err != nil {
		return nil, err
	}
	h.SetDataLen(len(data))
	if err := x.c.CheckHeader(h); err != nil {
		return nil, err
	}
	if a.has("bad") {
		return x.s.Damaged(x.c, x.now, h, nil, data, nil), nil
	}
	return x.s.Received(x.c, x.now, h, nil, data, nil), nil
}

func (x *transcript) open(a args) error {
	p := login.Defaults().Params
	p.InitialR2T = a["r2t"] == "yes"
	p.ImmediateData = a["imm"] != "no"
	p.FirstBurstLength, p.MaxBurstLength = a.num("first", 4096), a.num("burst", 8192)
	p.MaxRecvDataSegmentLength, p.MaxXmitDataSegmentLength = a.num("mrdsl", 4096), a.num("xmit", 4096)
	p.MaxOutstandingR2T = uint16(a.num("outstanding", 1))
	p.TaskReporting, p.ProtocolLevel = login.ReportRFC3720, uint8(a.num("level", 1))
	if a["reporting"] == "fastabort" {
		p.TaskReporting = login.ReportFastAbort
	}
	typ := login.Normal
	if a.has("discovery") {
		typ = login.Discovery
	}
	lim := Limits{Window: a.num("window", 8), NOPInterval: int64(a.num("nop", 0)) * second, HeldBytes: 64 << 10, TextBytes: 256, TextRequests: 4, Immediate: 2}
	if lim.NOPInterval == 0 {
		lim.NOPInterval = -1
	}
	x.background, x.aborts, x.tmfs = false, nil, nil
	x.now, x.sn = second, pdu.SN(a.num("cmdsn", 1))
	x.s = New(sam.Nexus{Initiator: "iqn.i", Target: "iqn.t", PortGroup: 1}, 1, typ, p, x.sn, lim, &x.pool)
	x.c = x.s.AddConn(0, 1, x.now)
	return nil
}

// pdu makes a request.
func (x *transcript) pdu(words []string, a args, itt uint32) (*pdu.Header, []byte, error) {
	h := &pdu.Header{}
	lun := sam.NewLUN(uint16(a.num("lun", 1)))
	numbered := true
	var data []byte
	switch words[0] {
	case "cmd":
		h[0] = byte(pdu.OpSCSICommand)
		c := (*pdu.SCSICommand)(h)
		c.SetFlags(!a.has("nof"), a.has("r"), a.has("w"), sam.Simple)
		c.SetEDTL(a.num("edtl", 0))
		b, err := hex.DecodeString(a["cdb"])
		if err != nil {
			return nil, nil, err
		}
		copy(c.CDB(), b)
		data = pattern(0, int(a.num("imm", 0)))
	case "data":
		n := int(a.num("len", 0))
		(*pdu.DataOut)(h).Init(lun, itt, a.num("ttt", pdu.NoTag), pdu.SN(a.num("sn", 0)), a.num("off", 0), n, a.has("f"))
		return h, pattern(int(a.num("off", 0)), n), nil
	case "tmf":
		h[0] = byte(pdu.OpTaskMgmtReq)
		r := (*pdu.TaskMgmtReq)(h)
		r.SetFunction(sam.TMF(a.num("fn", 0)))
		r.SetRefTag(a.num("ref", pdu.NoTag))
		r.SetRefCmdSN(pdu.SN(a.num("refsn", 0)))
	case "nop":
		data = make([]byte, a.num("len", 0))
		(*pdu.NOPOut)(h).Init(lun, itt, a.num("ttt", pdu.NoTag), a.has("I"), len(data))
	case "text":
		h[0] = byte(pdu.OpTextReq)
		(*pdu.TextReq)(h).SetFlags(!a.has("nof") && !a.has("c"), a.has("c"))
		h.SetTTT(a.num("ttt", pdu.NoTag))
		for _, w := range words[1:] {
			if k, _, ok := strings.Cut(w, "="); ok && k != "itt" && k != "ttt" && k != "sn" {
				data = append(append(data, w...), 0)
			}
		}
	case "logout":
		h[0] = byte(pdu.OpLogoutReq)
		(*pdu.LogoutReq)(h).SetReason(uint8(a.num("reason", 0)))
		(*pdu.LogoutReq)(h).SetCID(uint16(a.num("cid", 0)))
	default:
		code, ok := strings.CutPrefix(words[0], "op=")
		n, err := strconv.ParseUint(code, 16, 6)
		if !ok || err != nil {
			return nil, nil, fmt.Errorf("no such input: %s", words[0])
		}
		h[0] = byte(n)
		numbered = false
	}
	if words[0] != "nop" && words[0] != "logout" {
		h.SetLUN(lun)
	}
	h.SetITT(itt)
	if a.has("I") {
		h[0] |= 0x40
		h.SetCmdSN(pdu.SN(a.num("sn", uint32(x.sn))))
	} else if numbered {
		h.SetCmdSN(pdu.SN(a.num("sn", uint32(x.sn))))
		if !a.has("sn") {
			x.sn++
		}
	}
	return h, data, nil
}

func keys(words []string) []byte {
	var out []byte
	for _, w := range words {
		out = append(append(out, w...), 0)
	}
	return out
}

// pattern is n bytes of Data-Out from off on, which tell where they belong.
func pattern(off, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((off+i)>>8*31 + off + i + 1)
	}
	return b
}

// describe writes what the session asks for, stamped as it would be sent.
func (x *transcript) describe(w *strings.Builder, acts []Action) {
	for i := range acts {
		a := &acts[i]
		switch a.Kind {
		case Begin:
			x.tasks[a.Task.ITT], x.imm[a.Task.ITT] = a.Task, append([]byte(nil), a.Data...)
			fmt.Fprintf(w, "  begin itt=%d lun=%v imm=%d\n", a.Task.ITT, a.LUN, len(a.Data))
			if x.background {
				x.s.Executing(a.Task)
			}
		case Execute:
			fmt.Fprintf(w, "  execute itt=%d out=%d\n", a.Task.ITT, len(a.Task.Buf))
			if !bytes.Equal(a.Task.Buf, pattern(0, len(a.Task.Buf))) {
				x.t.Errorf("task %d has data that is not what was sent", a.Task.ITT)
			}
		case DataFault:
			fmt.Fprintf(w, "  data fault itt=%d\n", a.Task.ITT)
			x.describe(w, x.s.Completed(a.Task, DataFaultResult(), nil))
		case Send, SendUrgent, SendData:
			data := a.Data
			a.Header.SetDataLen(len(data))
			x.c.Stamp(&a.Header)
			urgent := ""
			if a.Kind == SendUrgent {
				urgent = "urgent "
			}
			fmt.Fprintf(w, "  %s%s\n", urgent, pdu.Describe(&a.Header, nil, data))
		case Abort:
			fmt.Fprintf(w, "  abort itt=%d\n", a.Task.ITT)
			if a.TMF != nil {
				x.aborts = append(x.aborts, a.TMF)
			}
		case Next:
			x.describe(w, x.s.Next(x.now, nil))
		case ResetLU, ResetTarget, AbortSet, ClearSet, ResetNexus, Query:
			fmt.Fprintf(w, "  %s lun=%v\n", map[ActionKind]string{ResetLU: "reset lu", ResetTarget: "reset target", AbortSet: "abort set",
				ClearSet: "clear set", ResetNexus: "reset nexus", Query: "query"}[a.Kind], a.LUN)
			switch a.Kind {
			case ResetNexus:
				x.describe(w, x.s.AbortTasks(a.TMF, false, func(*Task) bool { return true }, nil))
			case AbortSet, ClearSet:
				x.describe(w, x.s.AbortTasks(a.TMF, false, func(t *Task) bool { return t.LUN == a.LUN }, nil))
			}
			x.tmfs = append(x.tmfs, a.TMF)
		case PowerCycle:
			fmt.Fprintf(w, "  power cycle\n")
		case SendTargets:
			fmt.Fprintf(w, "  send targets %q\n", a.Name)
		case Close:
			fmt.Fprintf(w, "  close: %s\n", a.Name)
		case Drop:
			fmt.Fprintf(w, "  drop: %s\n", a.Name)
		}
	}
}
