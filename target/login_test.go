package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// MUST 7143 §6.2: a key list that goes on in further PDUs, cut anywhere, is what it would be in one
//
// Both ways, through a login with CHAP: the initiator sends some bytes at a time, and takes no more than it declared.
func TestLoginInPieces(t *testing.T) {
	auth := accounts()
	r := newRig(t, Config{Auth: auth, Login: login.Config{Params: login.Defaults().Params, MaxPDUs: 1000, MaxKeyBytes: 16384, MaxKeys: 128}}, "")
	chap := initiator.CHAP{Name: "joe", Secret: auth.Incoming[0].Secret}
	for _, piece := range []int{1, 7, 64, 8192} {
		c, err := initiator.Dial(r.ctx(), r.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Timeout, c.MaxText = testWait, piece
		itt := c.NextITT()
		walk := func(transit bool, csg, nsg pdu.Stage, keys initiator.Keys) initiator.Keys {
			t.Helper()
			_, answer, err := c.LoginStep(itt, transit, csg, nsg, keys)
			if err != nil {
				t.Fatalf("%d bytes at a time: %v", piece, err)
			}
			return answer
		}
		security, operational, full := pdu.SecurityNegotiation, pdu.OperationalStage, pdu.FullFeaturePhase
		walk(false, security, operational, initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", testTarget).With("AuthMethod", "CHAP"))
		challenge := walk(false, security, operational, initiator.Keys{{Name: "CHAP_A", Value: "7"}})
		reply, _, err := chap.Answer(challenge)
		if err != nil {
			t.Fatal(err)
		}
		walk(true, security, operational, reply)
		keys := initiator.Keys{{Name: "MaxRecvDataSegmentLength", Value: "512"}}
		c.MaxRecv = 512
		for i := range 40 {
			keys = append(keys, initiator.Key{Name: fmt.Sprintf("X-com.example.%02d", i), Value: "1"})
		}
		answer := walk(true, operational, full, keys)
		for _, k := range keys[1:] {
			if v, _ := answer.Get(k.Name); v != "NotUnderstood" {
				t.Errorf("%d bytes at a time: %s=%s", piece, k.Name, v)
			}
		}
		if _, err := c.Ping([]byte("there")); err != nil {
			t.Errorf("%d bytes at a time: %v", piece, err)
		}
	}
}

// Data comes through a portal of IPv6 as it does through one of IPv4, and one path's end leaves the other alone.
func TestTwoPaths(t *testing.T) {
	r := newRig(t, Config{}, "")
	paths := []string{r.listen("127.0.0.2:0,group=2").String(), r.listen("127.0.0.3:0,group=3").String(), r.listen("[::1]:0,group=6").String()}
	var sessions []*initiator.Session
	for i, p := range paths {
		o := r.options(byte(i + 1))
		o.Portal = p
		s, err := initiator.Login(r.ctx(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		r.ready(s)
		sessions = append(sessions, s)
	}
	for i, s := range sessions {
		r.write(s, uint32(i*64), pattern(i, 64))
	}
	if err := sessions[0].Close(); err != nil {
		t.Fatal(err)
	}
	for i, s := range sessions[1:] {
		for j := range sessions {
			if !bytes.Equal(r.read(s, uint32(j*64), 64), pattern(j, 64)) {
				t.Errorf("path %d reads otherwise what path %d wrote", i+1, j)
			}
		}
	}
}

// MUST 7143 §11.14.1: the reasons of a logout: the session, the connection of a CID, and recovery, which level 0 does not have
//
// MUST 7143 §11.15.1: a CID that is not there is told so, and the session goes on
func TestLogoutReasons(t *testing.T) {
	r := newRig(t, Config{}, "")
	logout := func(c *initiator.Conn, reason uint8, cid uint16) (uint8, error) {
		own := c.CID
		c.CID = cid
		code, err := c.Logout(reason)
		c.CID = own
		return code, err
	}
	for n, c := range []struct {
		reason uint8
		cid    uint16
		code   uint8
		stays  bool
	}{
		{pdu.LogoutCloseSession, 0, pdu.LogoutSuccess, false},
		{pdu.LogoutCloseSession, 7, pdu.LogoutSuccess, false}, // the CID does not count
		{pdu.LogoutCloseConnection, 0, pdu.LogoutSuccess, false},
		{pdu.LogoutCloseConnection, 7, pdu.LogoutCIDNotFound, true},
		{pdu.LogoutRemoveRecovery, 0, pdu.LogoutRecoveryUnsupported, true},
	} {
		conn := r.rawLogin(byte(n + 1))
		conn.Timeout = testWait
		code, err := logout(conn, c.reason, c.cid)
		if err != nil || code != c.code {
			t.Errorf("reason %d, CID %d: response %d, %v", c.reason, c.cid, code, err)
		}
		if c.stays {
			if _, err := conn.Ping([]byte("there")); err != nil {
				t.Errorf("after reason %d, CID %d: %v", c.reason, c.cid, err)
			}
			conn.Close()
		} else if _, err := conn.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("after reason %d, CID %d: %v, want the end of the connection", c.reason, c.cid, err)
		}
		r.until("its session has ended", func() bool { return r.s.Sessions() == 0 })
	}
	conn := r.rawLogin(1)
	if _, err := logout(conn, 3, 0); err == nil || r.s.Sessions() != 1 {
		t.Errorf("a reason that is none: %v, %d sessions", err, r.s.Sessions())
	}
}

// MUST 7143 §6.3.5: a login with a TSIH of 0 and a live session's initiator port ends that session and begins another
//
// MUST 7143 §11.12.6: a TSIH that is not of a session of this initiator port with this target port is refused with 020Ah
//
// MUST 7143 §6.3.6: a login with a live session's TSIH and a live connection's CID takes its place
//
// A further connection of a session, where one is what was negotiated, is refused with 0206h.
func TestTSIH(t *testing.T) {
	r := newRig(t, Config{}, "")
	other := r.listen("127.0.0.2:0,group=2")
	first := r.rawLogin(1)
	login := func(portal string, isid byte, tsih, cid uint16) (*initiator.Conn, pdu.LoginStatus) {
		c, err := initiator.Dial(r.ctx(), portal)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.Timeout = testWait
		c.ISID, c.TSIH, c.CID = [6]byte{0x80, 0, 0, 0, 0, isid}, tsih, cid
		_, err = c.Login(initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", testTarget), nil)
		var le *initiator.LoginError
		if errors.As(err, &le) {
			return c, le.Status
		} else if err != nil {
			t.Fatal(err)
		}
		return c, pdu.LoginSuccess
	}
	for _, c := range []struct {
		portal    string
		isid      byte
		tsih, cid uint16
		want      pdu.LoginStatus
	}{
		{r.addr.String(), 1, first.TSIH + 1, 0, pdu.SessionDoesNotExist},
		{r.addr.String(), 2, first.TSIH, 0, pdu.SessionDoesNotExist},
		{other.String(), 1, first.TSIH, 0, pdu.SessionDoesNotExist},
		{r.addr.String(), 1, first.TSIH, 1, pdu.TooManyConnections},
	} {
		if _, got := login(c.portal, c.isid, c.tsih, c.cid); got != c.want {
			t.Errorf("%+v: status %04Xh", c, uint16(got))
		}
	}
	if _, err := first.Ping(nil); err != nil {
		t.Fatal("the session that others meddled with:", err)
	}
	again, status := login(r.addr.String(), 1, first.TSIH, 0)
	if status != pdu.LoginSuccess || again.TSIH != first.TSIH {
		t.Fatalf("connection reinstatement: status %04Xh, TSIH %d", uint16(status), again.TSIH)
	}
	if _, err := first.Recv(); !errors.Is(err, io.EOF) {
		t.Error("the connection that was replaced:", err)
	}
	fresh, status := login(r.addr.String(), 1, 0, 0)
	if status != pdu.LoginSuccess || fresh.TSIH == first.TSIH || fresh.TSIH == 0 {
		t.Fatalf("session reinstatement: status %04Xh, TSIH %d after %d", uint16(status), fresh.TSIH, first.TSIH)
	}
	if _, err := again.Recv(); !errors.Is(err, io.EOF) {
		t.Error("the session that was replaced:", err)
	}
	if n := r.s.Sessions(); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// A login that is not done in time is cut off, and so is a discovery session.
func TestLoginTimeouts(t *testing.T) {
	r := newRig(t, Config{LoginTimeout: time.Second, DiscoveryTime: 50 * time.Millisecond}, "")
	silent, err := initiator.Dial(r.ctx(), r.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	slow, err := initiator.Dial(r.ctx(), r.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, _, err := slow.LoginStep(slow.NextITT(), false, 0, 1, initiator.SecurityKeys("iqn.2026-11.io.lunar:raw", testTarget)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*initiator.Conn{silent, slow, r.rawDiscovery(8192)} {
		c.Timeout = testWait
		if _, err := c.Recv(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	}
	s := r.login(1) // a session has no such end
	c := r.rawDiscovery(8192)
	c.Timeout = testWait
	if _, err := c.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if _, err := s.Ping(r.ctx(), nil); err != nil {
		t.Fatal(err)
	}
}

// Two initiators with one name and ISID at two addresses throw each other out: the log names them, and not one that comes back
// from where it was.
func TestFlappingIsNamed(t *testing.T) {
	var rec recorder
	r := newRig(t, Config{Logger: &rec}, "")
	from := func(addr string, isid byte) {
		o := r.options(isid)
		o.Dial = func(ctx context.Context, portal string) (net.Conn, error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
			return d.DialContext(ctx, "tcp", portal)
		}
		s, err := initiator.Login(r.ctx(), o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
	}
	named := func() int { return strings.Count(rec.text(), "give each its own InitiatorName") }
	for range 2 * flapCount {
		from("127.0.0.1", 1)
	}
	if named() != 0 {
		t.Error("an initiator that comes back is called two")
	}
	for range flapCount {
		for isid := range byte(3) { // each has several sessions
			from("127.0.0.5", isid+1)
		}
		for isid := range byte(3) {
			from("127.0.0.1", isid+1)
		}
	}
	// Of the first ISID there was a session before.
	if n := named(); n != 4 || !strings.Contains(rec.text(), "127.0.0.1 127.0.0.5") {
		t.Errorf("%d times in the log, want 4", n)
	}
}
