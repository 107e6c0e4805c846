package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/metrics"
)

// metricsStop is how long a scrape under way has when the daemon ends.
const metricsStop = time.Second

// startMetrics lets Prometheus in.
func (o *options) startMetrics(ctx context.Context, m *admin.Manager, log *asyncLog) (func(), error) {
	h, err := metrics.NewHandler(metrics.NewCollector(m, metrics.Config{}), metrics.HandlerConfig{})
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", o.metrics)
	if err != nil {
		return nil, fmt.Errorf("--metrics %s: %w", o.metrics, err)
	}
	s := metrics.NewServer(h)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(metrics.Limit(l, 0)); !errors.Is(err, http.ErrServerClosed) {
			log.Warn("the metrics are not served any more", "address", o.metrics, "error", err)
		}
	}()
	log.Info("metrics", "address", l.Addr().String())
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), metricsStop)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			_ = s.Close() // what is under way is cut off
		}
		<-done
	}, nil
}
