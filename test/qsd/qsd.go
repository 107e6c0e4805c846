package qsd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/deps"
)

const (
	readyTimeout = 20 * time.Second // milliseconds on a quiet machine
	readyPoll    = 5 * time.Millisecond
	qmpTimeout   = 20 * time.Second
	connections  = 16 // to each daemon
)

// A Disk is one export.
type Disk struct {
	Name   string   // of the export, and of its block node
	Driver string   // "raw", "qcow2", "rbd", …
	File   string   // of drivers on files; empty: Args says where the disk is
	Args   []string // further properties of the node: "pool=rbd", "cache.direct=on"
}

// A Config is what a daemon serves.
type Config struct {
	Disks []Disk
	// TLS is a folder with ca-cert.pem, server-cert.pem and server-key.pem: the exports demand TLS and a client's certificate.
	TLS string
}

// A Server is a daemon.
type Server struct {
	Socket string // the path of its NBD socket

	dir   string
	args  []string
	tls   bool
	cmd   *exec.Cmd
	said  *bytes.Buffer // read after ended
	ended chan struct{} // closed when the process has ended and was waited for
}

// URI is how lunard names an export; with TLS, tls-certificates is to be added.
func (s *Server) URI(export string) string {
	scheme := "nbd+unix"
	if s.tls {
		scheme = "nbds+unix"
	}
	return scheme + ":///" + export + "?socket=" + s.Socket
}

// Start starts a daemon and returns when it serves.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "lunar") // the test's own folder may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &Server{Socket: filepath.Join(dir, "nbd"), dir: dir, tls: c.TLS != "", said: &bytes.Buffer{}}
	s.args = []string{"--chardev", "socket,id=qmp,server=on,wait=off,path=" + s.qmp(), "--monitor", "chardev=qmp"}
	server := fmt.Sprintf("addr.type=unix,addr.path=%s,max-connections=%d", s.Socket, connections)
	if s.tls {
		s.args = append(s.args, "--object", "tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir="+c.TLS)
		server += ",tls-creds=tls"
	}
	for _, d := range c.Disks {
		node := "driver=" + d.Driver + ",node-name=" + d.Name + ",discard=unmap"
		if d.File != "" {
			node += ",file.driver=file,file.discard=unmap,file.filename=" + d.File
		}
		for _, a := range d.Args {
			node += "," + a
		}
		s.args = append(s.args, "--blockdev", node)
	}
	s.args = append(s.args, "--nbd-server", server)
	for _, d := range c.Disks {
		s.args = append(s.args, "--export", fmt.Sprintf("type=nbd,id=e-%s,node-name=%s,name=%s,writable=on", d.Name, d.Name, d.Name))
	}
	s.run(t)
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() && s.said.Len() > 0 {
			t.Logf("qemu-storage-daemon said:\n%s", s.said)
		}
	})
	return s
}

func (s *Server) qmp() string { return filepath.Join(s.dir, "qmp") }

func (s *Server) run(t testing.TB) {
	t.Helper()
	tool := deps.Find(t, "qemu-storage-daemon")
	s.ended = make(chan struct{})
	s.cmd = tool.Command(context.WithoutCancel(t.Context()), s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s.said, s.said
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, ended := s.cmd, s.ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // says that it was killed
	}()
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	deadline := time.After(readyTimeout)
	for {
		if conn, err := net.Dial("unix", s.Socket); err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-s.ended:
			t.Fatalf("qemu-storage-daemon %v ended before it served:\n%s", s.args, s.said)
		case <-deadline:
			t.Fatalf("qemu-storage-daemon does not serve after %v", readyTimeout)
		case <-poll.C:
		}
	}
}

// Kill ends the daemon as a power cut does (SIGKILL): what QEMU still held in memory is gone.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // fails only when it has ended
	<-s.ended
}

// Restart starts the daemon anew, after Kill, on the same socket with the same disks.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	for _, name := range []string{s.Socket, s.qmp()} {
		if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	s.run(t)
}

// Freeze stops the daemon where it is (SIGSTOP); Thaw lets it go on. Its connections stay.
func (s *Server) Freeze(t testing.TB) { s.signal(t, syscall.SIGSTOP) }

// Thaw ends what Freeze began.
func (s *Server) Thaw(t testing.TB) { s.signal(t, syscall.SIGCONT) }

func (s *Server) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// Resize gives a disk another size. QEMU does not let a disk be resized that is exported, so the export is taken away, its connections with it,
// and made anew.
func (s *Server) Resize(t testing.TB, disk string, size int64) {
	t.Helper()
	id := "e-" + disk
	s.QMP(t, "block-export-del", map[string]any{"id": id, "mode": "hard"})
	// It is gone when the last request on it has ended.
	for deadline := time.Now().Add(qmpTimeout); bytes.Contains(s.QMP(t, "query-block-exports", nil), []byte(`"`+id+`"`)); {
		if time.Now().After(deadline) {
			t.Fatalf("the export %s does not go", disk)
		}
	}
	s.QMP(t, "block_resize", map[string]any{"node-name": disk, "size": size})
	s.QMP(t, "block-export-add", map[string]any{"type": "nbd", "id": id, "node-name": disk, "name": disk, "writable": true})
}

// QMP carries out one command.
func (s *Server) QMP(t testing.TB, command string, arguments map[string]any) json.RawMessage {
	t.Helper()
	conn, err := net.Dial("unix", s.qmp())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(qmpTimeout)); err != nil {
		t.Fatal(err)
	}
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	// answer reads up to the answer to a command; the greeting and events go by.
	answer := func(what string) json.RawMessage {
		for {
			var m struct {
				Return json.RawMessage `json:"return"`
				Error  *struct {
					Desc string `json:"desc"`
				} `json:"error"`
			}
			switch err := in.Decode(&m); {
			case err != nil:
				t.Fatalf("QMP %s: %v", what, err)
			case m.Error != nil:
				t.Fatalf("QMP %s: %s", what, m.Error.Desc)
			case m.Return != nil:
				return m.Return
			}
		}
	}
	ask := func(command string, arguments map[string]any) json.RawMessage {
		q := map[string]any{"execute": command}
		if arguments != nil {
			q["arguments"] = arguments
		}
		if err := out.Encode(q); err != nil {
			t.Fatalf("QMP %s: %v", command, err)
		}
		return answer(command)
	}
	ask("qmp_capabilities", nil)
	return ask(command, arguments)
}

// Image makes a disk image with qemu-img in a folder of the test.
func Image(t testing.TB, format string, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk."+format)
	tool := deps.Find(t, "qemu-img")
	if out, err := tool.Command(context.WithoutCancel(t.Context()), "create", "-q", "-f", format, path, fmt.Sprint(size)).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img create: %v: %s", err, out)
	}
	return path
}
