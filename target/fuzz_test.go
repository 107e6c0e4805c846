package target

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore/faulty"
	"github.com/lunar-iscsi/lunar/backstore/mem"
	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"golang.org/x/sys/unix"
)

// fuzzRules are what the store of a fuzz run does.
var fuzzRules = [...]string{"", "any pending", "any wouldblock", "write hang every=2", "read error=medium every=3", "write error=busy every=2; read pending", "flush hang; write pending", "any delay=1ms every=5"}

// FuzzConnection sends a stream of PDUs through a socket pair to a connection in full-feature phase, cut anywhere, and ends it. The input
// is a byte of settings, and for each PDU what is laid over its header, a length of two bytes, and how it is cut. Whatever comes: no
// panic, an output that is well formed, at most one answer for each command, and nothing left of it.
func FuzzConnection(f *testing.F) {
	for _, seed := range connectionSeeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		x := &fuzzWire{T: t, commands: map[uint32]int{}}
		x.serve(in[0])
		x.exchange(in[1:])
		x.end()
	})
}

type fuzzWire struct {
	*testing.T
	s        *Server
	tg       *Target
	store    *faulty.Store
	our      *os.File
	log      lines
	sent     []byte
	commands map[uint32]int // by ITT: commands sent, less those answered
}

// serve makes a server whose target has one session, over a socket pair.
func (x *fuzzWire) serve(settings byte) {
	x.Helper()
	var err error
	if x.s, err = NewServer(Config{Logger: &x.log, BufferBytes: 4 << 20, MaxBacklog: 64 << 10, MaxQueuedPDUs: 256}); err != nil {
		x.Fatal(err)
	}
	if x.tg, err = x.s.AddTarget(testTarget, TargetConfig{}); err != nil {
		x.Fatal(err)
	}
	m, err := mem.New(mem.Config{Size: 1 << 20, BlockSize: 512})
	if err != nil {
		x.Fatal(err)
	}
	if x.store, err = faulty.New(m, fuzzRules[settings&7]); err != nil {
		x.Fatal(err)
	}
	if err := x.tg.AddDisk(1, x.store, scsi.DiskConfig{Identity: "fuzz"}); err != nil {
		x.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		x.Fatal(err)
	}
	x.our = os.NewFile(uintptr(fds[0]), "initiator")
	p := login.Defaults().Params
	p.InitialR2T, p.ImmediateData = settings&8 != 0, settings&16 == 0
	p.MaxRecvDataSegmentLength, p.MaxXmitDataSegmentLength = 64<<10, []uint32{512, 64 << 10}[settings>>5&1]
	p.FirstBurstLength = []uint32{4096, 64 << 10}[settings>>6&1]
	g := &greeter{s: x.s, statSN: 1, policy: policy{s: x.s, conf: x.tg.conf.Load()}}
	res := login.Result{InitiatorName: "iqn.2026-11.io.lunar:fuzz", TargetName: testTarget, Type: login.Normal, Params: p, CmdSN: 1}
	resp := &login.Response{Final: true}
	(*pdu.LoginResp)(&resp.Header).Init(0, res.ISID, 0, pdu.LoginSuccess, true, false, pdu.OperationalStage, pdu.FullFeaturePhase, 0)
	if _, err := x.tg.admit(g, fds[1], res, resp, nil); err != nil {
		x.Fatal(err)
	}
}

// exchange sends what in says and reads all that comes back.
func (x *fuzzWire) exchange(in []byte) {
	next := pdu.SN(1)
	var cut []int
	for len(in) >= 4 {
		var h pdu.Header
		n := min(int(in[0]&0x3f), len(h))
		at := in[0] >> 6 // where numbers are the right ones
		size, step := int(binary.BigEndian.Uint16(in[1:]))%(66<<10), int(in[3])
		in = in[4:]
		in = in[copy(h[:n], in):]
		if at != 3 {
			h.SetDataLen(size)
			h[4] &= 3
			h.SetCmdSN(next)
			if h[0]&0x40 == 0 && h.Opcode() != pdu.OpDataOut && h.Opcode() != pdu.OpSNACK {
				next++
			}
		} else {
			size = min(size, 128)
		}
		if at == 1 {
			h.SetLUN(sam.NewLUN(1))
		}
		x.sent = append(x.sent, h[:]...)
		x.sent = append(x.sent, make([]byte, h.AHSLen()+pdu.Pad(size))...)
		cut = append(cut, 1+step*step)
	}
	// As the target reads it: where a header's lengths are others than what follows it, PDUs begin elsewhere.
	for b := x.sent; len(b) >= pdu.HeaderLen; b = b[min(pdu.HeaderAt(b).WireLen(), len(b)):] {
		if h := pdu.HeaderAt(b); h.Opcode() == pdu.OpSCSICommand {
			x.commands[h.ITT()]++
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; len(x.sent) != 0; i++ {
			n := len(x.sent)
			if len(cut) != 0 {
				n = min(n, cut[i%len(cut)]+n>>8)
			}
			if _, err := x.our.Write(x.sent[:n]); err != nil {
				break // it has closed the connection
			}
			x.sent = x.sent[n:]
		}
		_ = unix.Shutdown(int(x.our.Fd()), unix.SHUT_WR)
	}()
	x.read()
	<-done
	x.our.Close()
}

// read checks the target's stream, up to its end.
func (x *fuzzWire) read() {
	statSN := pdu.SN(1)
	var last pdu.SN
	for first := true; ; first = false {
		var h pdu.Header
		if _, err := io.ReadFull(x.our, h[:]); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, io.ErrUnexpectedEOF) {
				x.Error(err)
			}
			return
		}
		if h.AHSLen() != 0 || h.DataLen() > 64<<10 {
			x.Errorf("a PDU of %d and %d bytes", h.AHSLen(), h.DataLen())
			return
		}
		body := make([]byte, pdu.Pad(h.DataLen()))
		if _, err := io.ReadFull(x.our, body); err != nil {
			return // it was cut off
		}
		if pad := body[h.DataLen():]; !bytes.Equal(pad, make([]byte, len(pad))) {
			x.Errorf("%v is padded with % x", h.Opcode(), pad)
		}
		numbered := true
		switch h.Opcode() {
		case pdu.OpDataIn:
			if numbered = (*pdu.DataIn)(&h).HasStatus(); numbered {
				x.answered(h.ITT())
			}
		case pdu.OpSCSIResponse:
			x.answered(h.ITT())
		case pdu.OpR2T:
			numbered = false
		case pdu.OpNOPIn:
			numbered = h.ITT() != pdu.NoTag
		case pdu.OpLoginResp, pdu.OpReject, pdu.OpTextResp, pdu.OpTaskMgmtResp, pdu.OpLogoutResp, pdu.OpAsync:
		default:
			x.Errorf("the target sends %v", h.Opcode())
			return
		}
		if numbered {
			if h.StatSN() != statSN {
				x.Errorf("%v with StatSN %d, want %d", h.Opcode(), h.StatSN(), statSN)
			}
			statSN++
		}
		if !first && h.MaxCmdSN().Before(last) {
			x.Errorf("MaxCmdSN goes back from %d to %d", last, h.MaxCmdSN())
		}
		last = h.MaxCmdSN()
	}
}

func (x *fuzzWire) answered(itt uint32) {
	if x.commands[itt]--; x.commands[itt] < 0 {
		x.Errorf("task %x has more answers than commands", itt)
	}
}

// end closes the server: nothing may be left.
func (x *fuzzWire) end() {
	_ = x.store.Set("") // the text is right
	x.store.Release()
	if err := x.s.Close(); err != nil {
		x.Error("closing:", err)
	}
	st := x.s.Stats()
	if st.Panics != 0 {
		x.Errorf("panics: %q", x.log.text)
	}
	if st.Sessions != 0 || st.BufferBytes != 0 {
		x.Errorf("%d sessions and %d bytes are left", st.Sessions, st.BufferBytes)
	}
}

// connectionSeeds are some exchanges that go well, and each request by itself.
func connectionSeeds() (seeds [][]byte) {
	c := initiator.Conn{CmdSN: 1, ITT: 1}
	put := func(b []byte, h *pdu.Header, size int, cut byte) []byte {
		return append(append(b, 1<<6|48, byte(size>>8), byte(size), cut), h[:]...)
	}
	tur := c.CommandHeader(0, make([]byte, 6), false, false, 0)
	for settings := range byte(8) {
		b := []byte{settings | settings<<5}
		b = put(b, tur, 0, 3)
		b = put(b, tur, 0, 1)
		b = put(b, c.CommandHeader(0, write10(0, 8), false, true, 4096), 4096, 20)
		b = put(b, c.CommandHeader(0, write10(8, 64), false, true, 32<<10), 32<<10, 9)
		b = put(b, c.CommandHeader(0, read10(0, 128), true, false, 64<<10), 0, 200)
		r2t := c.CommandHeader(0, write10(8, 128), false, true, 64<<10)
		b = put(b, r2t, 512, 5)
		var d pdu.Header
		for i := range uint32(3) {
			(*pdu.DataOut)(&d).Init(0, r2t.ITT(), 1+i, 0, 512, 0, true)
			b = put(b, &d, 65024, 255)
		}
		unsolicited := c.CommandHeader(0, write10(8, 8), false, true, 4096)
		unsolicited[1] &^= 0x80
		b = put(b, unsolicited, 0, 7)
		(*pdu.DataOut)(&d).Init(0, unsolicited.ITT(), pdu.NoTag, 0, 0, 0, true)
		b = put(b, &d, 4096, 2)
		(*pdu.NOPOut)(&d).Init(0, 77, pdu.NoTag, true, 0)
		b = put(b, &d, 20000, 11)
		for _, op := range []pdu.Opcode{pdu.OpTaskMgmtReq, pdu.OpTextReq, pdu.OpSNACK, 0x1c, pdu.OpLogoutReq} {
			h := c.Request(op, settings&1 != 0)
			h[1] |= settings
			b = put(b, h, int(settings), settings)
		}
		seeds = append(seeds, b)
	}
	return seeds
}
