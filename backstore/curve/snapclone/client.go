package snapclone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// version is what every call says of itself.
const version = "0.0.6"

const path = "/SnapshotCloneService"

// Limits.
const (
	dialTime  = 2 * time.Second  // to connect to one server
	callTime  = 30 * time.Second // for one answer
	patience  = 15 * time.Second // to find the one that serves
	pause     = 200 * time.Millisecond
	maxAnswer = 8 << 20 // bytes of an answer
	maxText   = 1024    // bytes of what a server says, in an error
	page      = 100     // entries asked for at a time
	maxList   = 100_000 // entries of a list
)

// Config says where the servers are.
type Config struct {
	Addresses []string      // host:port
	Patience  time.Duration // how long the one that serves is looked for (15 s)
}

// A Client asks the servers of one cluster. Its methods may be called from any goroutine.
type Client struct {
	cfg  Config
	http *http.Client

	mu sync.Mutex
	at int // the server that answered last
}

// New makes a client; nothing is connected before the first call.
func New(cfg Config) *Client {
	if cfg.Patience == 0 {
		cfg.Patience = patience
	}
	d := &net.Dialer{Timeout: dialTime}
	return &Client{cfg: cfg, http: &http.Client{
		// No connection is used twice: net/http would send a GET again, of which one is lost, and here a GET takes a snapshot.
		Transport:     &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

var (
	// ErrAway: no server has answered.
	ErrAway = errors.New("no SnapshotCloneServer answers")
	// ErrUnknown: the call was sent, and whether it was carried out is not known.
	ErrUnknown = errors.New("no answer came; it may have been carried out")
	errAnswer  = errors.New("the SnapshotCloneServer's answer is not understood")
)

// A Code is how a call ended at the server.
type Code int

// Codes.
const (
	Internal       Code = -1
	Stopped        Code = -4
	BadRequest     Code = -5
	TaskExists     Code = -6
	InvalidUser    Code = -7
	FileNotExist   Code = -8
	FileStatus     Code = -9
	NameMismatch   Code = -11
	Unfinished     Code = -12
	SnapshotError  Code = -13
	CancelFinished Code = -14
	InvalidSnap    Code = -15
	InUse          Code = -16
	CleanEarly     Code = -17
	Limit          Code = -18
	FileExist      Code = -19
	Full           Code = -20
	Unsupported    Code = -21
)

// An Error is an answer other than code 0.
type Error struct {
	Code   Code
	Text   string // the server's own words
	Action string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: the SnapshotCloneServer says: %s (code %d)", e.Action, e.Text, e.Code)
}

// CodeOf returns the code in err's chain; 0: there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// An answer is what every answer may have.
type answer struct {
	Code       string
	Message    string
	UUID       string
	TotalCount int64
	Snapshots  []Snapshot
	TaskInfos  []Task
}

// call asks the server that serves. again: it may be sent twice.
func (c *Client) call(ctx context.Context, action string, again bool, params ...string) (*answer, error) {
	if len(c.cfg.Addresses) == 0 {
		return nil, fmt.Errorf("%s: %w: none is known", action, ErrAway)
	}
	q := url.Values{"Action": {action}, "Version": {version}}
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	look, cancel := context.WithTimeout(ctx, c.cfg.Patience)
	defer cancel()
	for tries := 1; ; tries++ {
		c.mu.Lock()
		at := c.at
		c.mu.Unlock()
		address := c.cfg.Addresses[at%len(c.cfg.Addresses)]
		a, err := c.ask(ctx, "http://"+address+path+"?"+q.Encode())
		if err == nil {
			if a.Code != "0" {
				return nil, a.failure(action)
			}
			return a, nil
		}
		var op *net.OpError
		sent := !(errors.As(err, &op) && op.Op == "dial")
		if ctx.Err() != nil {
			if err = context.Cause(ctx); !again && sent {
				err = fmt.Errorf("%s: %s: %w: %w", action, address, ErrUnknown, err)
			}
			return nil, err
		}
		if errors.Is(err, errAnswer) {
			return nil, fmt.Errorf("%s: %s: %w", action, address, err)
		}
		if !again && sent {
			return nil, fmt.Errorf("%s: %s: %w: %w", action, address, ErrUnknown, err)
		}
		c.mu.Lock()
		if c.at == at {
			c.at++
		}
		c.mu.Unlock()
		if tries%len(c.cfg.Addresses) != 0 && look.Err() == nil {
			continue // the next one at once
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-look.Done():
			t.Stop()
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf("%s: %w at %s within %v: %w", action, ErrAway, strings.Join(c.cfg.Addresses, ","), c.cfg.Patience, err)
		}
	}
}

// ask makes one request of one server.
func (c *Client) ask(ctx context.Context, uri string) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", errAnswer, maxAnswer)
	}
	a := &answer{}
	if err := json.Unmarshal(b, a); err != nil || a.Code == "" {
		return nil, fmt.Errorf("%w: HTTP status %d, %q", errAnswer, resp.StatusCode, cut(string(b)))
	}
	if len(a.Snapshots) > page || len(a.TaskInfos) > page {
		return nil, fmt.Errorf("%w: more entries than were asked for", errAnswer)
	}
	return a, nil
}

func cut(s string) string { return s[:min(len(s), maxText)] }

func (a *answer) failure(action string) error {
	var code Code
	if n, err := fmt.Sscanf(a.Code, "%d", &code); n != 1 || err != nil || code == 0 {
		return fmt.Errorf("%s: %w: code %q", action, errAnswer, cut(a.Code))
	}
	return &Error{Code: code, Text: cut(a.Message), Action: action}
}
