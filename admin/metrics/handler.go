package metrics

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// HandlerConfig bounds what scrapers may ask for. A zero field is its default.
type HandlerConfig struct {
	Timeout    time.Duration // of one scrape; DefaultTimeout
	MaxScrapes int           // at once, further ones are refused with status 503; DefaultMaxScrapes
	// NoProcess leaves out what tells of the process and of Go's runtime (process_…, go_…).
	NoProcess bool
}

// The defaults of HandlerConfig, and the bounds of NewServer.
const (
	DefaultTimeout    = 10 * time.Second // what Prometheus itself waits
	DefaultMaxScrapes = 2                // a pair of Prometheus servers

	requestTime     = 5 * time.Second // a request's header may take
	answerTime      = time.Minute     // a request may take in all
	idleTime        = 2 * time.Minute // a connection may stay without a request: longer than the usual scrape interval
	maxRequestBytes = 8 << 10         // of a request's header

	// DefaultMaxConns is how many connections Limit leaves open at once, where it is told 0.
	DefaultMaxConns = 64
)

// Path is where the handler serves the metrics.
const Path = "/metrics"

// NewHandler returns a handler that serves what c shows at Path, and nothing else.
func NewHandler(c *Collector, cfg HandlerConfig) (http.Handler, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.MaxScrapes == 0 {
		cfg.MaxScrapes = DefaultMaxScrapes
	}
	if cfg.Timeout < 0 || cfg.MaxScrapes < 0 {
		return nil, fmt.Errorf("metrics: a time-out of %v, %d scrapes at once: want more than 0", cfg.Timeout, cfg.MaxScrapes)
	}
	reg := prometheus.NewRegistry()
	all := []prometheus.Collector{c}
	if !cfg.NoProcess {
		all = append(all, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	serve := promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		// What cannot be shown is left out and counted: the rest is of use all the same.
		ErrorHandling: promhttp.ContinueOnError, Registry: reg,
		MaxRequestsInFlight: cfg.MaxScrapes, Timeout: cfg.Timeout,
	})
	mux := http.NewServeMux()
	mux.Handle("GET "+Path, serve)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == Path {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "lunar: metrics are read", http.StatusMethodNotAllowed)
			return
		}
		http.Error(w, "lunar: the metrics are at "+Path, http.StatusNotFound)
	})
	return mux, nil
}

// Limit closes connections of l beyond most at once: whoever reaches the port may connect, and each connection costs memory and a descriptor
// that targets want.
func Limit(l net.Listener, most int) net.Listener {
	if most == 0 {
		most = DefaultMaxConns
	}
	return &limited{Listener: l, taken: make(chan struct{}, most)}
}

type limited struct {
	net.Listener
	taken chan struct{} // has one for each open connection
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.taken <- struct{}{}:
			return &limitedConn{Conn: c, taken: l.taken}, nil
		default:
			_ = c.Close() // nothing was written to it
		}
	}
}

// A limitedConn gives its place back when it is closed, once.
type limitedConn struct {
	net.Conn
	once  sync.Once
	taken chan struct{}
}

func (c *limitedConn) Close() error {
	c.once.Do(func() { <-c.taken })
	return c.Conn.Close()
}

// NewServer returns an HTTP server of h with bounds for whoever can reach it. It does not listen yet.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: requestTime, ReadTimeout: requestTime, WriteTimeout: answerTime, IdleTimeout: idleTime,
		MaxHeaderBytes: maxRequestBytes}
}
