package longhorn

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/longhorn/internal/rpc"
)

// errNoEngine: what is asked for goes by the engine's gRPC API, whose address is not known.
var errNoEngine = errors.New("the engine's gRPC address is not known: give the volume the option engine=HOST:PORT")

// control returns a client of the engine's controller. What it does is called op in errors.
func (c *config) control(op string) (*rpc.Client, error) {
	if c.engine == "" {
		return nil, &backstore.Error{Class: backstore.ClassUnsupported, Op: op, Cause: errNoEngine}
	}
	cl, err := rpc.Dial(c.engine, c.volume)
	if err != nil {
		return nil, &backstore.Error{Class: backstore.ClassInternal, Op: op, Cause: err}
	}
	return cl, nil
}

// volumeGet asks the engine what its volume is.
func volumeGet(ctx context.Context, c *config, op string) (rpc.Volume, error) {
	cl, err := c.control(op)
	if err != nil {
		return rpc.Volume{}, err
	}
	defer cl.Close()
	return c.volumeOf(ctx, cl, op)
}

func (c *config) volumeOf(ctx context.Context, cl *rpc.Client, op string) (rpc.Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	v, err := cl.Volume(ctx)
	if err != nil {
		return v, c.failed(op, err)
	}
	if c.volume != "" && v.Name != c.volume {
		return v, &backstore.Error{Class: backstore.ClassNotFound, Op: op, Cause: fmt.Errorf("the engine at %s serves the volume %q, not %q", c.engine, v.Name, c.volume)}
	}
	return v, nil
}

// failed is the error for a call of the engine's API that failed. Most of the engine's own errors have no code.
func (c *config) failed(op string, err error) error {
	class := backstore.ClassInternal
	st := status.Convert(err)
	switch text := st.Message(); st.Code() {
	case codes.Unavailable, codes.DeadlineExceeded:
		class = backstore.ClassOffline
	case codes.Canceled:
		class = backstore.ClassCancelled
	case codes.NotFound, codes.FailedPrecondition: // the latter: another volume's engine
		class = backstore.ClassNotFound
	case codes.Unimplemented:
		class = backstore.ClassUnsupported
	case codes.Unknown:
		switch {
		case strings.Contains(text, textNoReplica):
			class = backstore.ClassOffline
		case strings.Contains(text, "snapshotMaxCount") || strings.Contains(text, "too big") || strings.Contains(text, "free space"):
			class = backstore.ClassNoSpace
		case strings.Contains(text, "in progress") || strings.Contains(text, "in process") || strings.Contains(text, "already") || strings.Contains(text, "rebuilding"):
			class = backstore.ClassBusy
		}
	}
	return &backstore.Error{Class: class, Op: op, Cause: fmt.Errorf("the engine of %s at %s: %s", c.shown(), c.engine, st.Message())}
}
