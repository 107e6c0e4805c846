//go:build rbd && cgo

package rbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/test/deps"
)

// A child is this test binary in another process, which opens an image and writes to it without pause, so that tests can freeze and kill it.
const childEnv = "LUNAR_RBD_TEST_CHILD"

const (
	childBlock  = 4096
	childDepth  = 32 // writes in flight, each to a slot of its own
	childBlocks = 64 // that a slot's writes go round in
)

func TestMain(m *testing.M) {
	if uri := os.Getenv(childEnv); uri != "" {
		os.Exit(child(uri))
	}
	code := m.Run()
	shared.close()
	os.Exit(code)
}

// child writes until it fails: block b of slot s is given ever larger numbers. It says "open", "acked SLOT NUMBER" for each write that was
// completed, and "failed CLASS" for the first that was not.
func child(uri string) int {
	u, err := backstore.ParseURI(uri)
	if err != nil {
		fmt.Println("failed", err)
		return 1
	}
	st, err := backstore.NewRegistry(Driver()).Open(context.Background(), u, backstore.Options{Warn: func(s string) { fmt.Fprintln(os.Stderr, s) }})
	if err != nil {
		fmt.Println("failed", backstore.ClassOf(err), err)
		return 1
	}
	// With a cache a write is durable only with FUA. librbd writes through until it has seen a flush, which would hide a FUA that is forgotten.
	var flags backstore.Flags
	if i := st.Info(); i.Has(backstore.CapFlush) {
		flags = backstore.FUA
		r := &backstore.Request{Op: backstore.Flush, C: make(signal, 1)}
		if st.Submit(r) == backstore.Pending {
			st.(backstore.Kicker).Kick()
			<-r.C.(signal)
		}
		if r.Err != nil {
			fmt.Println("failed", r.Err)
			return 1
		}
	}
	fmt.Println("open")
	out := bufio.NewWriter(os.Stdout)
	var mu sync.Mutex
	say := func(format string, a ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(out, format+"\n", a...)
		_ = out.Flush()
	}
	var wg sync.WaitGroup
	ended := make([]signal, childDepth)
	for slot := range childDepth {
		ended[slot] = make(signal, 1)
		wg.Add(1)
		go func() {
			defer wg.Done()
			buf := make([]byte, childBlock)
			for n := int64(1); ; n++ {
				stamp(buf, n)
				r := &backstore.Request{Op: backstore.Write, Flags: flags, Off: childOff(slot, n), Len: childBlock, Buf: buf, C: ended[slot]}
				mu.Lock()
				o := st.Submit(r)
				st.(backstore.Kicker).Kick()
				mu.Unlock()
				if o == backstore.Pending {
					<-ended[slot]
				}
				if r.Err != nil {
					say("failed %v: %v", backstore.ClassOf(r.Err), r.Err)
					return
				}
				say("acked %d %d", slot, n)
			}
		}()
	}
	wg.Wait()
	if err := st.Close(context.Background()); err != nil {
		say("closed %v", backstore.ClassOf(err))
	}
	return 0
}

func childOff(slot int, n int64) int64 {
	return (int64(slot)*childBlocks + n%childBlocks) * childBlock
}

func stamp(b []byte, n int64) {
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], uint64(n))
	}
}

type signal chan struct{}

func (c signal) Complete(*backstore.Request) { c <- struct{}{} }

// A writer is a child that was started.
type writer struct {
	t     testing.TB
	cmd   *exec.Cmd
	lines chan string // closed when it has ended
	acked [childDepth]int64
}

func startWriter(t testing.TB, uri string) *writer {
	t.Helper()
	w := &writer{t: t, cmd: exec.Command(os.Args[0]), lines: make(chan string, 1<<16)}
	w.cmd.Env = append(os.Environ(), childEnv+"="+uri)
	w.cmd.Stderr = os.Stderr
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(w.lines)
		r := bufio.NewReader(out)
		for {
			line, err := r.ReadString('\n')
			if err != nil { // the last line may be half of one
				if err != io.EOF {
					t.Logf("reading from the child: %v", err)
				}
				return
			}
			w.lines <- strings.TrimSpace(line)
		}
	}()
	t.Cleanup(func() {
		_ = w.cmd.Process.Kill() // it may have ended
		for range w.lines {
		}
		_ = w.cmd.Wait()
	})
	return w
}

// until reads lines up to one that begins so, and returns it.
func (w *writer) until(begin string) string {
	w.t.Helper()
	for line := range w.lines {
		w.take(line)
		if strings.HasPrefix(line, begin) {
			return line
		}
	}
	w.t.Fatalf("the child ended before it said %q", begin)
	return ""
}

// busy waits until each slot has been written some times.
func (w *writer) busy(times int64) {
	w.t.Helper()
	for {
		w.until("acked")
		least := w.acked[0]
		for _, n := range w.acked {
			least = min(least, n)
		}
		if least >= times {
			return
		}
	}
}

func (w *writer) take(line string) {
	f := strings.Fields(line)
	if f[0] != "acked" {
		return
	}
	slot, err := strconv.Atoi(f[1])
	if err != nil {
		w.t.Fatal(line)
	}
	if w.acked[slot], err = strconv.ParseInt(f[2], 10, 64); err != nil {
		w.t.Fatal(line)
	}
}

func (w *writer) signal(s syscall.Signal) {
	w.t.Helper()
	if err := w.cmd.Process.Signal(s); err != nil {
		w.t.Fatal(err)
	}
	if s == syscall.SIGSTOP {
		if err := deps.WaitStopped(w.cmd.Process.Pid); err != nil {
			w.t.Fatal(err)
		}
	}
}

// kill kills the child and takes what it has said.
func (w *writer) kill() {
	w.t.Helper()
	w.signal(syscall.SIGKILL)
	for line := range w.lines {
		w.take(line)
	}
}
