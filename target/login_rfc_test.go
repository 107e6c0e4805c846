package target

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// dial returns a connection of initiator port n on which nothing has been said.
func (r *rig) dial(n byte) *initiator.Conn {
	r.t.Helper()
	c, err := initiator.Dial(r.ctx(), r.addr.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	c.ISID = [6]byte{0x80, 0, 0, 0, 0, n}
	c.Timeout = testWait
	return c
}

// step sends one Login Request and returns the response.
func (r *rig) step(c *initiator.Conn, transit bool, csg, nsg pdu.Stage, keys initiator.Keys) *pdu.LoginResp {
	r.t.Helper()
	if err := c.Send(c.LoginHeader(1, transit, false, csg, nsg), keys.Encode()); err != nil {
		r.t.Fatal(err)
	}
	p, err := c.Expect(pdu.OpLoginResp)
	if err != nil {
		r.t.Fatal(err)
	}
	return (*pdu.LoginResp)(&p.Header)
}

var rawNames = initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", testTarget)

// wantClosed fails unless the target closes c without another PDU.
func wantClosed(t *testing.T, c *initiator.Conn, why string) {
	t.Helper()
	if p, err := c.Recv(); err == nil {
		t.Fatalf("%s: %v came", why, pdu.Describe(&p.Header, nil, p.Data))
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%s: the connection is not closed", why)
	}
}

// TestLoginNumbers goes through a login in three requests and on into the full feature phase.
//
// MUST 7143 §11.13.4: StatSN begins with the first Login Response of a connection, goes on through the login, and from
// there into the full feature phase
//
// MUST 7143 §11.13.3: the last response of a new session's login has the TSIH that the target gives it, which is not 0
//
// MUST 7143 §11.12.8: the first command of a session has the CmdSN of its login
//
// MUST 7143 §11.12.1: T in the response to a request with T says that the stage is left
func TestLoginNumbers(t *testing.T) {
	r := newRig(t, Config{}, "")
	c := r.dial(1)
	c.CmdSN = 0xfffffffe
	first := r.step(c, false, pdu.SecurityNegotiation, 0, rawNames)
	sn := first.H().StatSN()
	if first.Status() != pdu.LoginSuccess || first.Transit() || first.TSIH() != 0 {
		t.Fatalf("the first response: %s", pdu.Describe(first.H(), nil, nil))
	}
	second := r.step(c, true, pdu.SecurityNegotiation, pdu.OperationalStage, nil)
	if second.H().StatSN() != sn+1 || !second.Transit() || second.NSG() != pdu.OperationalStage || second.TSIH() != 0 {
		t.Fatalf("the second response: %s", pdu.Describe(second.H(), nil, nil))
	}
	last := r.step(c, true, pdu.OperationalStage, pdu.FullFeaturePhase, nil)
	if last.H().StatSN() != sn+2 || !last.Transit() || last.NSG() != pdu.FullFeaturePhase || last.TSIH() == 0 {
		t.Fatalf("the last response: %s", pdu.Describe(last.H(), nil, nil))
	}
	if last.H().ExpCmdSN() != 0xfffffffe || !last.H().ExpCmdSN().Before(last.H().MaxCmdSN()) {
		t.Fatalf("the window: %s", pdu.Describe(last.H(), nil, nil))
	}
	for i := range pdu.SN(3) {
		h := c.Request(pdu.OpNOPOut, false)
		(*pdu.NOPOut)(h).Init(0, c.NextITT(), pdu.NoTag, false, 0)
		h.SetCmdSN(0xfffffffe + i)
		if err := c.Send(h, nil); err != nil {
			t.Fatal(err)
		}
		p, err := c.Expect(pdu.OpNOPIn)
		if err != nil {
			t.Fatal(err)
		}
		if p.StatSN() != sn+3+i || p.ExpCmdSN() != 0xffffffff+i {
			t.Fatalf("NOP-In %d: %s", i, pdu.Describe(&p.Header, nil, nil))
		}
	}
}

// TestRefusedLoginCloses has logins that fail for different reasons at different times.
//
// MUST 7143 §11.13.5: after a Login Response whose status is no success the connection is closed
//
// MUST 7143 §6.3: a PDU other than a Login Request before the login ends the connection, one during it is answered by
// status 020Bh
func TestRefusedLoginCloses(t *testing.T) {
	r := newRig(t, Config{LoginTimeout: time.Hour}, "") // it is not the time of the login that is over
	c := r.dial(1)
	if got := r.step(c, true, pdu.SecurityNegotiation, pdu.FullFeaturePhase, initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", "iqn.2026-11.io.lunar:absent")); got.Status() != pdu.TargetNotFound {
		t.Fatalf("an absent target: %v", got.Status())
	}
	wantClosed(t, c, "after the refusal")

	c = r.dial(1)
	r.step(c, false, pdu.SecurityNegotiation, 0, rawNames)
	if got := r.step(c, true, pdu.OperationalStage, pdu.FullFeaturePhase, nil); got.Status() != pdu.InitiatorError {
		t.Fatalf("a stage that was not entered: %v", got.Status())
	}
	wantClosed(t, c, "after the second request's refusal")

	c = r.dial(1)
	r.step(c, false, pdu.SecurityNegotiation, 0, rawNames)
	h := c.Request(pdu.OpNOPOut, true)
	(*pdu.NOPOut)(h).Init(0, 5, pdu.NoTag, true, 0)
	if err := c.Send(h, nil); err != nil {
		t.Fatal(err)
	}
	p, err := c.Expect(pdu.OpLoginResp)
	if err != nil || (*pdu.LoginResp)(&p.Header).Status() != pdu.InvalidDuringLogin {
		t.Fatalf("a NOP-Out during the login: %v, %v", p, err)
	}
	wantClosed(t, c, "after a NOP-Out during the login")

	c = r.dial(1)
	if err := c.Send(h, nil); err != nil {
		t.Fatal(err)
	}
	wantClosed(t, c, "after a NOP-Out before the login")
	if n := r.s.Sessions(); n != 0 {
		t.Fatalf("%d sessions", n)
	}
}

// TestSessionHandles logs in with handles that do and do not exist.
//
// MUST 7143 §6.3.1: a session that there is not cannot be gone on with: 020Ah
//
// MUST 7143 §11.12.6: the target looks for the session that the TSIH of the first request names, among those of the same
// initiator port
//
// MUST 7143 §6.3.1: a connection beyond MaxConnections is refused with 0206h, and the session goes on
func TestSessionHandles(t *testing.T) {
	r := newRig(t, Config{}, "")
	old := r.rawLogin(1)
	for name, c := range map[string]struct {
		port   byte
		tsih   uint16
		cid    uint16
		status pdu.LoginStatus
	}{
		"another handle":                      {1, old.TSIH + 1, 0, pdu.SessionDoesNotExist},
		"the handle of another port":          {2, old.TSIH, 0, pdu.SessionDoesNotExist},
		"a second connection of one session ": {1, old.TSIH, 7, pdu.TooManyConnections},
	} {
		n := r.dial(c.port)
		n.TSIH, n.CID = c.tsih, c.cid
		if got := r.step(n, true, pdu.SecurityNegotiation, pdu.FullFeaturePhase, rawNames); got.Status() != c.status {
			t.Errorf("%s: %v, want %v", name, got.Status(), c.status)
		}
		if _, err := old.Ping(nil); err != nil {
			t.Fatalf("%s: the session that there was: %v", name, err)
		}
	}
}

// TestConnectionReinstatement replaces the connection of a session while a command hangs on it.
//
// SHOULD 7143 §6.3.4: a second connection may be opened to take the place of the first, though a session has but one
//
// MUST 7143 §6.3.4: the login of a connection with the ISID, TSIH and CID of one that there is logs that one out and takes its
// place in the session
//
// MUST 7143 §7.6: a connection that is logged out or lost takes its tasks with it: they are ended inside, and none is answered
func TestConnectionReinstatement(t *testing.T) {
	r := newRig(t, Config{}, "write hang count=1")
	old := r.rawLogin(1)
	if _, err := old.ReadCommand(lun1, initiator.TestUnitReady(), 0); err != nil {
		t.Fatal(err)
	}
	h := old.CommandHeader(lun1, write10(0, 1), false, true, 512)
	if err := old.Send(h, block('a', 1)); err != nil {
		t.Fatal(err)
	}
	if err := r.store.Wait(r.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	c := r.dial(1)
	c.TSIH, c.CmdSN = old.TSIH, old.CmdSN
	if got := r.step(c, true, pdu.SecurityNegotiation, pdu.FullFeaturePhase, rawNames); got.Status() != pdu.LoginSuccess || got.TSIH() != old.TSIH {
		t.Fatalf("the new connection: %s", pdu.Describe(got.H(), nil, nil))
	}
	wantClosed(t, old, "the old connection")
	// The session is the same one: CmdSN goes on, there is no new unit attention, and the tag of the task that ended
	// is free again.
	c.ITT = h.ITT()
	res, err := c.ReadCommand(lun1, read10(64, 1), 512)
	if err != nil || res.Status != sam.Good {
		t.Fatalf("a command in the session: %v, %v", res, err)
	}
	if n := r.s.Sessions(); n != 1 {
		t.Fatalf("%d sessions", n)
	}
}

// TestPadding reads answers of lengths that are no multiple of four as bytes.
//
// MUST 7143 §11.1: a PDU's segments are padded to whole words of four bytes
//
// SHOULD 7143 §11.1: the bytes of a pad are 0
func TestPadding(t *testing.T) {
	r := newRig(t, Config{}, "")
	c := r.rawLogin(1)
	if _, err := c.ReadCommand(lun1, initiator.TestUnitReady(), 0); err != nil {
		t.Fatal(err)
	}
	// From long to short: where a pad belongs now there was data before.
	for n := 9; n >= 1; n-- {
		inquiry := []byte{0x12, 0, 0, 0, byte(n), 0}
		if err := c.Send(c.CommandHeader(lun1, inquiry, true, false, uint32(n)), nil); err != nil {
			t.Fatal(err)
		}
		head := make([]byte, pdu.HeaderLen)
		if _, err := io.ReadFull(c.NC, head); err != nil {
			t.Fatal(err)
		}
		if h := pdu.HeaderAt(head); h.Opcode() != pdu.OpDataIn || h.DataLen() != n {
			t.Fatalf("%d bytes: %s", n, pdu.Describe(h, nil, nil))
		}
		data := make([]byte, pdu.Pad(n))
		if _, err := io.ReadFull(c.NC, data); err != nil {
			t.Fatal(err)
		}
		if pad := data[n:]; !bytes.Equal(pad, make([]byte, len(pad))) {
			t.Errorf("%d bytes are padded with % x", n, pad)
		}
	}
	// What follows the last pad is the next header.
	if _, err := c.Ping(nil); err != nil {
		t.Fatal(err)
	}
}

// TestEndOfLogout closes a session in good order.
//
// MUST 7143 §11.14: a logout ends the session's tasks, which are not answered; then the connection is closed
//
// MUST 7143 §7.15: with its last connection a session ends at error recovery level 0, and its handle with it
//
// MUST 7143 §7.14: a connection that fails is gone at once, with what was under way on it
func TestEndOfLogout(t *testing.T) {
	r := newRig(t, Config{}, "write hang count=1")
	c := r.rawLogin(1)
	if _, err := c.ReadCommand(lun1, initiator.TestUnitReady(), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(c.CommandHeader(lun1, write10(0, 1), false, true, 512), block('a', 1)); err != nil {
		t.Fatal(err)
	}
	if err := r.store.Wait(r.ctx(), 1); err != nil {
		t.Fatal(err)
	}
	if code, err := c.Logout(pdu.LogoutCloseSession); err != nil || code != pdu.LogoutSuccess {
		t.Fatalf("logout: %d, %v", code, err)
	}
	wantClosed(t, c, "after the logout")
	n := r.dial(1)
	n.TSIH = c.TSIH
	if got := r.step(n, true, pdu.SecurityNegotiation, pdu.FullFeaturePhase, rawNames); got.Status() != pdu.SessionDoesNotExist {
		t.Fatalf("the handle of the session that ended: %v", got.Status())
	}
	other := r.rawLogin(3)
	other.Close()
	for deadline := time.Now().Add(testWait); r.s.Sessions() != 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the session of a connection that failed is left")
		}
	}
}
