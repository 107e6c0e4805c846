package grpcd

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/lunar-iscsi/lunar/admin"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/backstore"
)

// progressEvery is how often progress is told of, at most.
const progressEvery = 100 * time.Millisecond

// work carries out what takes long, and tells its caller how far it is: who reads slowly hears of it less often, and holds nothing up. It
// ends with the call, and with Stop.
func work[M any](s *Server, stream grpc.ServerStreamingServer[M], told func(*api.VolumeProgress) *M, do func(ctx context.Context, p backstore.Progress) (*M, error)) error {
	ctx, cancel := context.WithCancelCause(s.called(stream))
	defer cancel(nil)
	latest := make(chan *api.VolumeProgress, 1)
	over, silent := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(silent)
		tell(s, stream, cancel, latest, over, told)
	}()
	end := func() { // a stream has one sender at a time
		close(over)
		<-silent
	}
	ended := false
	defer func() {
		if !ended { // a panic
			end()
		}
	}()
	last, err := do(ctx, func(done, total int64) {
		select {
		case <-latest: // newer is better
		default:
		}
		latest <- &api.VolumeProgress{Done: done, Total: total}
	})
	ended = true
	end()
	if err != nil {
		return err
	}
	return stream.Send(last)
}

// tell sends the latest progress until over is closed.
func tell[M any](s *Server, stream grpc.ServerStreamingServer[M], cancel context.CancelCauseFunc, latest <-chan *api.VolumeProgress, over <-chan struct{}, told func(*api.VolumeProgress) *M) {
	stopped := s.done
	wait := time.NewTimer(0)
	defer wait.Stop()
	from := latest
	for {
		select {
		case <-over:
			return
		case <-stopped:
			cancel(ending())
			stopped = nil
		case <-wait.C:
			from = latest
		case p := <-from:
			if stream.Send(told(p)) != nil {
				return // the call has ended, and its context with it
			}
			from = nil
			wait.Reset(progressEvery)
		}
	}
}

// called is the context of a stream, with who calls.
func (s *Server) called(stream grpc.ServerStream) context.Context {
	return admin.WithCaller(stream.Context(), callerOf(stream.Context()))
}

// batches sends a list in messages of about PageBytes.
func batches[V proto.Message, M any](s *Server, stream grpc.ServerStreamingServer[M], list []V, message func([]V) *M) error {
	from, size := 0, 0
	for i, v := range list {
		if size += proto.Size(v); size >= s.cfg.PageBytes {
			if err := stream.Send(message(list[from : i+1])); err != nil {
				return err
			}
			from, size = i+1, 0
		}
	}
	if from == len(list) && from > 0 {
		return nil
	}
	return stream.Send(message(list[from:]))
}
