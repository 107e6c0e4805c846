package snapclone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func say(format string, args ...any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, format, args...) }
}

func closed(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// The reply of the real server to CreateSnapshot, and what it is asked.
func TestCreate(t *testing.T) {
	var query string
	a := serve(t, func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.RequestURI()
		fmt.Fprint(w, "{\n\t\"Code\" : \"0\",\n\t\"Message\" : \"Exec success.\",\n\t\"RequestId\" : \"r\",\n\t\"UUID\" : \"a-b\"\n}\n")
	})
	c := New(Config{Addresses: []string{closed(t), a}})
	id, err := c.CreateSnapshot(context.Background(), "user", "/dir/a b", "x&y")
	if err != nil || id != "a-b" {
		t.Errorf("%q, %v", id, err)
	}
	if want := "/SnapshotCloneService?Action=CreateSnapshot&File=%2Fdir%2Fa+b&Name=x%26y&User=user&Version=0.0.6"; query != want {
		t.Errorf("asked %s, want %s", query, want)
	}
}

// A call whose answer is lost is sent again only if it changes nothing.
func TestLost(t *testing.T) {
	var first, second atomic.Int64
	a := serve(t, func(http.ResponseWriter, *http.Request) {
		first.Add(1)
		panic(http.ErrAbortHandler)
	})
	b := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		second.Add(1)
		fmt.Fprint(w, `{"Code":"0","Snapshots":[{"UUID":"u","Name":"n"}]}`)
	})
	c := New(Config{Addresses: []string{a, b}})
	if _, err := c.CreateSnapshot(context.Background(), "u", "/v", "n"); !errors.Is(err, ErrUnknown) {
		t.Errorf("a snapshot whose answer is lost: %v", err)
	}
	if first.Load() != 1 || second.Load() != 0 {
		t.Errorf("it was sent %d and %d times", first.Load(), second.Load())
	}
	if list, err := c.Snapshots(context.Background(), "u", "/v"); err != nil || len(list) != 1 {
		t.Errorf("a list: %v, %v", list, err)
	}
}

func TestPatience(t *testing.T) {
	c := New(Config{Addresses: []string{closed(t), closed(t)}, Patience: time.Millisecond})
	if _, err := c.Snapshots(context.Background(), "u", "/v"); !errors.Is(err, ErrAway) {
		t.Errorf("nobody answers: %v", err)
	}
	if _, err := New(Config{}).Snapshots(context.Background(), "u", "/v"); !errors.Is(err, ErrAway) {
		t.Errorf("no address: %v", err)
	}
	asked := make(chan struct{}, 1)
	c = New(Config{Addresses: []string{serve(t, func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	})}})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := c.Snapshots(ctx, "u", "/v"); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that gives up: %v", err)
	}
}

// What a server must not send.
func TestHostile(t *testing.T) {
	many := strings.Repeat(`{"UUID":"u"},`, page) + `{"UUID":"u"}`
	for name, h := range map[string]http.HandlerFunc{
		"nothing":          say(""),
		"no JSON":          say("<html>"),
		"an array":         say("[]"),
		"no code":          say(`{"Message":"hello"}`),
		"a code that is 0": say(`{"Code":"00","UUID":"u"}`),
		"a code in words":  say(`{"Code":"fine","UUID":"u"}`),
		"a number as text": say(`{"Code":"0","Snapshots":[{"FileLength":"x"}]}`),
		"too many":         say(`{"Code":"0","Snapshots":[%s]}`, many),
		"too much":         say(`{"Code":"0","Message":"%s"}`, strings.Repeat("x", maxAnswer)),
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
	} {
		c := New(Config{Addresses: []string{serve(t, h)}})
		if _, err := c.Snapshots(context.Background(), "u", "/v"); err == nil {
			t.Errorf("%s is taken", name)
		} else if len(err.Error()) > 3*maxText {
			t.Errorf("%s makes an error of %d bytes", name, len(err.Error()))
		}
	}
	// A list without end.
	full := strings.Repeat(`{"UUID":"u"},`, page-1) + `{"UUID":"u"}`
	c := New(Config{Addresses: []string{serve(t, say(`{"Code":"0","Snapshots":[%s]}`, full))}})
	if _, err := c.Snapshots(context.Background(), "u", "/v"); err == nil {
		t.Error("a list without end ended")
	}
	c = New(Config{Addresses: []string{serve(t, say(`{"Code":"0"}`))}})
	if _, err := c.Clone(context.Background(), "u", "s", "/d", true, ""); err == nil {
		t.Error("a task without UUID is taken")
	}
	c = New(Config{Addresses: []string{serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, `{"Code":"-16","Message":"Cannot delete when using."}`)
	})}})
	if err := c.DeleteSnapshot(context.Background(), "u", "/v", "s"); CodeOf(err) != InUse || !strings.Contains(err.Error(), "when using") {
		t.Errorf("code -16: %v", err)
	}
}
