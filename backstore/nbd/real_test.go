package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
	"github.com/lunar-iscsi/lunar/test/certs"
	"github.com/lunar-iscsi/lunar/test/deps"
)

// A process is a server that a test has started.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan struct{}
}

func startProcess(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // killed, so its status says nothing
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only when it has ended
	<-p.done
}

// nbdkit starts nbdkit on a unix socket in dir and returns when it listens. words are filters (by --filter=NAME),
// the plugin (by plugin=NAME) and what belongs to them.
func nbdkit(t testing.TB, dir string, words ...string) *process {
	t.Helper()
	tool := deps.Find(t, "nbdkit")
	// nbdkit writes its number when it listens; a pipe tells when.
	ready := filepath.Join(t.TempDir(), "ready")
	if err := unix.Mkfifo(ready, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(ready, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pipe.Close() }()
	args := []string{"-f", "-P", ready, "-U", filepath.Join(dir, "s")}
	for _, w := range words {
		if name, ok := cut(w, "--filter="); ok {
			w = "--filter=" + tool.NBDKitFilter(name)
		} else if name, ok := cut(w, "plugin="); ok {
			w = tool.NBDKitPlugin(name)
		}
		args = append(args, w)
	}
	p := startProcess(t, tool.Command(context.Background(), args...))
	go func() {
		<-p.done
		_ = pipe.SetReadDeadline(time.Unix(1, 0)) // it died: do not wait on; an error says that we did not
	}()
	if err := pipe.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	if _, err := pipe.Read(make([]byte, 16)); err != nil {
		p.kill()
		t.Fatalf("nbdkit %v: %v: %s", args, err, p.out.String())
	}
	return p
}

func cut(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || s[:len(prefix)] != prefix {
		return "", false
	}
	return s[len(prefix):], true
}

func socketURI(dir, opts string) string {
	return "nbd+unix:///?socket=" + filepath.Join(dir, "s") + opts
}

func openStore(t testing.TB, uri string) backstore.Store {
	t.Helper()
	u, err := backstore.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	st, err := backstore.NewRegistry(Drivers()...).Open(context.Background(), u, backstore.Options{Warn: func(w string) { t.Log(w) }})
	if err != nil {
		t.Fatal(err)
	}
	// Taken for slow until some 200 requests were timed: all connections are used, and then one.
	st.(*Store).pace.mean = math.MaxInt64
	return st
}

func bytesOf(size int64) string { return "size=" + strconv.FormatInt(size, 10) }

func TestConformanceServer(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		for _, mode := range modes {
			t.Run(network+"/"+mode, func(t *testing.T) {
				make := func(t *testing.T, size int64, more uint16) backstore.Store {
					s := newServer(t, network)
					s.data, s.min = make([]byte, size), 512
					s.speak(t, mode)
					s.flags |= tfMultiConn | more
					return openStore(t, s.start().uri(""))
				}
				backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store { return make(t, size, 0) },
					backstoretest.Options{
						OpenReadOnly: func(t *testing.T, size int64) backstore.Store { return make(t, size, tfReadOnly) },
						Allocates:    true, // the server of the test does
					})
			})
		}
	}
}

func TestConformanceNBDKit(t *testing.T) {
	deps.Find(t, "nbdkit")
	t.Run("memory", func(t *testing.T) {
		backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
			dir := t.TempDir()
			nbdkit(t, dir, "plugin=memory", bytesOf(size))
			return openStore(t, socketURI(dir, ""))
		}, backstoretest.Options{OpenReadOnly: func(t *testing.T, size int64) backstore.Store {
			dir := t.TempDir()
			nbdkit(t, dir, "-r", "plugin=memory", bytesOf(size))
			return openStore(t, socketURI(dir, ""))
		}})
	})
	t.Run("file", func(t *testing.T) {
		var dir string
		backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
			dir = t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "d"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(filepath.Join(dir, "d"), size); err != nil {
				t.Fatal(err)
			}
			nbdkit(t, dir, "--filter=blocksize-policy", "plugin=file", filepath.Join(dir, "d"),
				"blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=256K", "blocksize-error-policy=error")
			return openStore(t, socketURI(dir, ""))
		}, backstoretest.Options{Reopen: func(t *testing.T) backstore.Store { return openStore(t, socketURI(dir, "")) }})
	})
	t.Run("tls", func(t *testing.T) {
		certs := certs.New(t, "nbdkit-ca").Folder(t)
		backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
			dir := t.TempDir()
			nbdkit(t, dir, "--tls=require", "--tls-verify-peer", "--tls-certificates="+certs, "plugin=memory", bytesOf(size))
			return openStore(t, "nbds+unix:///?socket="+filepath.Join(dir, "s")+"&tls-certificates="+certs)
		}, backstoretest.Options{Allocates: true}) // crypto/tls does
	})
	// Servers that can do less: what they do not offer is not there, and the rest is right.
	t.Run("noextents, slow zeroes", func(t *testing.T) {
		conformNBDKit(t, all, defaultConns, []string{"--filter=noextents", "--filter=nozero"}, "zeromode=emulate", "fastzeromode=slow")
	})
}

// conformNBDKit runs the suite on nbdkit's memory disk behind filters, which leave it with caps and so many connections.
func conformNBDKit(t *testing.T, caps backstore.Caps, conns int, filters []string, params ...string) {
	backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
		dir := t.TempDir()
		nbdkit(t, dir, slices.Concat(filters, []string{"plugin=memory", bytesOf(size)}, params)...)
		st := openStore(t, socketURI(dir, ""))
		if i := st.Info(); i.Caps != caps || len(st.(*Store).conns) != conns {
			t.Errorf("capabilities %b, want %b, on %d connections", i.Caps, caps, len(st.(*Store).conns))
		}
		return st
	})
}

func TestConformanceQemu(t *testing.T) {
	tool := deps.Find(t, "qemu-nbd")
	var dir string
	backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
		dir = t.TempDir()
		image := filepath.Join(dir, "d")
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, size); err != nil {
			t.Fatal(err)
		}
		p := startProcess(t, tool.Command(context.Background(), "-t", "-e", "8", "-k", filepath.Join(dir, "s"), "-f", "raw", "--discard=unmap", image))
		u, err := backstore.ParseURI(socketURI(dir, ""))
		if err != nil {
			t.Fatal(err)
		}
		// It does not tell when it listens.
		for deadline := time.Now().Add(limit); ; {
			st, err := open(context.Background(), u, backstore.Options{Warn: func(w string) { t.Log(w) }})
			if err == nil {
				return st
			}
			select {
			case <-p.done:
				t.Fatalf("qemu-nbd: %s", p.out.String())
			default:
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}, backstoretest.Options{Reopen: func(t *testing.T) backstore.Store { return openStore(t, socketURI(dir, "")) }})
}

// The error filter's EIO reaches the request with its class, and only while its trigger is there.
func TestNBDKitErrors(t *testing.T) {
	dir := t.TempDir()
	trigger := filepath.Join(dir, "trigger")
	nbdkit(t, dir, "--filter=error", "plugin=memory", bytesOf(1<<20), "error=ENOSPC", "error-rate=100%", "error-file="+trigger)
	h := openURI(t, socketURI(dir, ""), newTestLoop(t))
	h.must(write(0, fill(4096, 1)))
	if err := os.WriteFile(trigger, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	classIs(t, h.do(write(0, fill(4096, 2))), backstore.ClassNoSpace)
	err := h.do(read(0, 4096))
	classIs(t, err, backstore.ClassNoSpace)
	var se *ServerError
	if !errors.As(err, &se) || se.Errno != nbdENOSPC {
		t.Fatal(err)
	}
	if err := os.Remove(trigger); err != nil {
		t.Fatal(err)
	}
	r := read(0, 4096)
	if h.must(r); !bytes.Equal(r.Buf, fill(4096, 1)) {
		t.Fatal("a refused write is there")
	}
	h.close()
}

// nbdkit is killed with writes in flight and started again: nothing acknowledged is lost, nothing fails.
func TestNBDKitKilled(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "d")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const size, block = 4 << 20, 16 << 10
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	run := func(words ...string) *process {
		if err := os.Remove(filepath.Join(dir, "s")); err != nil && !os.IsNotExist(err) { // of the one that was killed
			t.Fatal(err)
		}
		return nbdkit(t, dir, append(append([]string{"--filter=delay"}, "plugin=file", image), words...)...)
	}
	p := run("wdelay=30")
	h := openURI(t, socketURI(dir, "&restart=safe"), newTestLoop(t))
	var rs []*backstore.Request
	for i := range size / block {
		rs = append(rs, write(int64(i)*block, fill(block, byte(i+1))))
	}
	d := h.submit(rs...) // none is answered: each is delayed for 30 s
	p.kill()
	run("wdelay=0")
	for range rs {
		if r := h.wait(d); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	h.must(flush())
	got, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	for i := range size / block {
		if !bytes.Equal(got[i*block:(i+1)*block], fill(block, byte(i+1))) {
			t.Fatalf("write %d is not there", i)
		}
	}
	h.close()
}

// Zeroes that nbdkit says are not fast are made all the same, in pieces.
func TestNBDKitSlowZeroes(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	nbdkit(t, dir, "--filter=log", "--filter=nozero", "plugin=memory", bytesOf(8<<20), "zeromode=emulate", "fastzeromode=slow", "logfile="+log)
	h := openURI(t, socketURI(dir, "&connections=1"), nil)
	h.must(write(0, fill(256<<10, 1)))
	h.must(write(7<<20, fill(256<<10, 1)))
	h.must(&backstore.Request{Op: backstore.WriteZeroes, Len: 8 << 20})
	for off := int64(0); off < 8<<20; off += 1 << 20 {
		r := read(off, 1<<20)
		if h.must(r); !bytes.Equal(r.Buf, make([]byte, 1<<20)) {
			t.Fatalf("no zeroes at %d", off)
		}
	}
	h.close()
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	// The filter next to the plugin writes them.
	if n := bytes.Count(b, []byte(" count=0x100000 fua=0 ...")); n != 8 {
		t.Fatalf("the zeroes were written in %d pieces of 1 MiB, want 8:\n%s", n, b)
	}
}

func TestNBDKitUnknownExport(t *testing.T) {
	dir := t.TempDir()
	nbdkit(t, dir, "plugin=file", "dir="+dir)
	_, err := tryOpen(t, "nbd+unix:///nope?socket="+filepath.Join(dir, "s"), nil)
	classIs(t, err, backstore.ClassNotFound)
}

// BenchmarkNBDKit drives nbdkit's memory disk; an operation is a request.
func BenchmarkNBDKit(b *testing.B) {
	for _, conns := range []int{1, 2, 4} {
		for _, depth := range []int{1, 32} {
			b.Run(fmt.Sprintf("read4k/connections%d/depth%d", conns, depth), func(b *testing.B) {
				dir := b.TempDir()
				nbdkit(b, dir, "plugin=memory", bytesOf(64<<20))
				h := openURI(b, socketURI(dir, "&connections="+strconv.Itoa(conns)), newTestLoop(b))
				w := newRound(h, depth, backstore.Read, 4096, 0)
				w.run()
				before := cpuTime(b)
				b.ResetTimer()
				for i := 0; i < b.N; i += depth {
					w.run()
				}
				b.StopTimer()
				cpu := cpuTime(b) - before
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "io/s")
				b.ReportMetric(float64(cpu.Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
				h.close()
			})
		}
	}
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
