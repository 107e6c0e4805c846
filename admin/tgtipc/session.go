package tgtipc

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/target"
)

// session has no show in tgtd, either.
func (c *call) session() (string, error) {
	if c.Op == OpStats {
		return c.statSession()
	}
	return "", c.notThere(ErrInvalidRequest)
}

// tsih is the session of a request; tgtd takes its lower half only.
func (c *call) tsih() uint16 { return uint16(c.SID) }

// findSession looks for the session at every target: tgtd does not ask for one.
func (c *call) findSession() (admin.TargetState, *target.SessionInfo, error) {
	for _, t := range c.svc.Targets(true) {
		if i := slices.IndexFunc(t.Live.Sessions, func(s target.SessionInfo) bool { return s.TSIH == c.tsih() }); i >= 0 {
			return t, &t.Live.Sessions[i], nil
		}
	}
	return admin.TargetState{}, nil, refuse(ErrNoSession, "there is no session %d", c.tsih())
}

func (c *call) statSession() (string, error) {
	t, s, err := c.findSession()
	if err != nil {
		return "", err
	}
	return sessionStats(&t, s), nil
}

func (c *call) connection(ctx context.Context) (string, error) {
	switch c.Op {
	case OpShow:
		t, err := c.find(true)
		if err != nil {
			return "", err
		}
		return showConnections(&t), nil
	case OpStats:
		_, s, err := c.findSession()
		if err != nil {
			return "", err
		}
		if err := c.findConn(s); err != nil {
			return "", err
		}
		return connStats(s, func(cid uint16) bool { return uint32(cid) == c.CID }), nil
	case OpDelete:
		return "", c.closeConn(ctx)
	}
	return "", c.notThere(ErrInvalidRequest)
}

func (c *call) findConn(s *target.SessionInfo) error {
	if c.CID > math.MaxUint16 || !slices.ContainsFunc(s.Conns, func(ci target.ConnInfo) bool { return uint32(ci.CID) == c.CID }) {
		return refuse(ErrNoConnection, "session %d has no connection %d", s.TSIH, c.CID)
	}
	return nil
}

// showConnections lists a target's connections, those of the newest session first.
func showConnections(t *admin.TargetState) string {
	var b strings.Builder
	for _, s := range slices.Backward(t.Live.Sessions) {
		for i := range s.Conns {
			fmt.Fprintf(&b, "Session: %d\n    Connection: %d\n        Initiator: %s\n        IP Address: %s\n", s.TSIH, s.Conns[i].CID, s.Initiator, peerText(&s.Conns[i]))
		}
	}
	return b.String()
}

// closeConn ends a connection.
func (c *call) closeConn(ctx context.Context) error {
	t, err := c.find(true)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(t.Live.Sessions, func(s target.SessionInfo) bool { return s.TSIH == c.tsih() })
	if i < 0 {
		return refuse(ErrNoSession, "target %s has no session %d", t.Spec.Name, c.tsih())
	}
	if err := c.findConn(&t.Live.Sessions[i]); err != nil {
		return err
	}
	return c.svc.CloseConnection(ctx, c.ref(), c.tsih(), uint16(c.CID))
}
