package admin

import (
	"context"
	"fmt"
)

// FaceStart is the face of what the daemon does as it starts. Nobody has called, so there are no audit lines of it.
const FaceStart = "start"

// A Caller is who makes an administrative call, for the audit line of each change.
type Caller struct {
	Face string // "tgt", "grpc", "file", "start", …
	UID  int    // of the peer of a unix socket; -1: none
	PID  int    // of that peer; 0: not known
	Cert string // the subject of the peer's certificate, or empty
}

func (c Caller) String() string {
	switch {
	case c.Cert != "":
		return fmt.Sprintf("%s cert %q", c.Face, c.Cert)
	case c.UID >= 0:
		return fmt.Sprintf("%s uid %d", c.Face, c.UID)
	}
	return c.Face
}

type callerKey struct{}

// WithCaller returns a context whose calls are c's.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf returns who calls; a Caller of face "unknown" where nobody said so.
func CallerOf(ctx context.Context) Caller {
	if c, ok := ctx.Value(callerKey{}).(Caller); ok {
		return c
	}
	return Caller{Face: "unknown", UID: -1}
}
