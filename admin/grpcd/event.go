package grpcd

import (
	"context"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/api/conv"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

type events struct {
	api.UnimplementedEventServiceServer
	s *Server
}

// WatchEvents hands events on as the service tells them. Send waits for a reader who is slow; meanwhile the service leaves out what
// does not fit its queue, and says how much.
func (x *events) WatchEvents(q *api.WatchEventsRequest, stream api.EventService_WatchEventsServer) error {
	wanted, err := filter(q)
	if err != nil {
		return err
	}
	select {
	case <-x.s.watchers:
		defer func() { x.s.watchers <- struct{}{} }()
	default:
		return &admin.Error{Code: admin.TooMany, Text: "as many event streams as there may be are open", Hint: "end one of them"}
	}
	// Stop ends the stream, and with it what waits in Send.
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	ch := x.s.svc.Watch(ctx)
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		select {
		case <-x.s.done:
			return ending()
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-ch:
			if !ok {
				return ending()
			}
			if !wanted(&e) {
				continue
			}
			if err := stream.Send(&api.WatchEventsResponse{Event: conv.FromEvent(&e)}); err != nil {
				return err
			}
		}
	}
}

func ending() error { return &admin.Error{Code: admin.ShuttingDown, Text: "the daemon ends"} }

// filter is what a call wants to hear of.
func filter(q *api.WatchEventsRequest) (func(*admin.Event) bool, error) {
	kinds := map[admin.EventKind]bool{}
	for i, k := range q.GetKinds() {
		word := conv.ToKind(k)
		if word == "" {
			return nil, invalid("", "kinds[%d]: %d is no kind of event", i, k)
		}
		kinds[word] = true
	}
	return func(e *admin.Event) bool {
		if e.Kind == admin.EventsLost {
			return true
		}
		return (len(kinds) == 0 || kinds[e.Kind]) && (q.GetTarget() == "" || strings.EqualFold(e.Target, q.GetTarget()))
	}, nil
}
