// Package metrics shows what a daemon counts to Prometheus: a collector that asks the admin service at each scrape, and an HTTP handler
// with bounds.
//
// It knows admin's states and the live information of package target, and keeps nothing itself: what two scrapes differ by is what
// has happened between them. docs/metrics.md lists the metrics; a test holds the two together.
//
//	c := metrics.NewCollector(service, metrics.Config{})
//	h, err := metrics.NewHandler(c, metrics.HandlerConfig{})
//	err = metrics.NewServer(h).Serve(listener)
//
// It promises nothing to programs outside this module; the names of the metrics, though, are for people to build on.
package metrics
