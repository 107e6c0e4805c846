package ceph

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// commandTimeout is above what the monitor program allows librados itself.
const commandTimeout = 30 * time.Second

// A commander runs the monitor program and has it carry out commands, one at a time.
type commander struct {
	c *Cluster

	mu  sync.Mutex
	cmd *exec.Cmd      // guarded by mu; nil: to be started
	in  io.WriteCloser // guarded by mu
	out chan string    // guarded by mu; its lines, closed at its end
	// said is what it wrote on its standard error; read when it has ended.
	said *strings.Builder
}

// answer is the monitor program's.
type answer struct{ Out, Status, Err string }

// call has a command carried out; pg is empty for the monitors. A call that gets no answer ends the program: the next one starts it anew.
func (m *commander) call(pg string, command map[string]any) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	line, err := json.Marshal(map[string]any{"pg": pg, "command": command})
	if err != nil {
		return "", err
	}
	if m.cmd == nil {
		if err := m.start(); err != nil {
			return "", err
		}
	}
	said := "no answer within " + commandTimeout.String()
	if _, err := m.in.Write(append(line, '\n')); err == nil {
		select {
		case text, ok := <-m.out:
			var a answer
			if ok && json.Unmarshal([]byte(text), &a) == nil {
				if a.Err != "" {
					return "", fmt.Errorf("ceph %v: %s %s", command["prefix"], a.Err, a.Status)
				}
				return a.Out, nil
			}
			said = "the monitor program has ended"
		case <-time.After(commandTimeout):
		}
	}
	return "", fmt.Errorf("ceph %v: %s %s", command["prefix"], said, m.end())
}

// start starts the program. Called with mu held.
func (m *commander) start() error {
	m.cmd = exec.Command(m.c.monitor, m.c.Conf())
	m.cmd.Env = m.c.Env()
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.said = &strings.Builder{}
	m.cmd.Stderr = m.said
	in, err := m.cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := m.cmd.Start(); err != nil {
		m.cmd = nil
		return err
	}
	m.in, m.out = in, make(chan string, 1)
	go func(lines chan<- string) {
		defer close(lines)
		sc := bufio.NewScanner(out)
		sc.Buffer(nil, 16<<20)
		for sc.Scan() {
			lines <- sc.Text()
		}
	}(m.out)
	return nil
}

// end kills the program, if it runs, and returns what it said. Called with mu held.
func (m *commander) end() string {
	if m.cmd == nil {
		return ""
	}
	_ = m.cmd.Process.Kill() // fails only when it has ended
	for range m.out {
	}
	_ = m.cmd.Wait() // says that it was killed
	m.cmd = nil
	return m.said.String()
}

func (m *commander) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.end()
}

// Mon has the monitors carry out a command and returns what it puts out, in JSON: c.Mon("osd blocklist", "blocklistop", "add", "addr", a). The
// rest are names and values.
func (c *Cluster) Mon(prefix string, args ...any) (string, error) {
	command := map[string]any{"prefix": prefix, "format": "json"}
	for i := 0; i+1 < len(args); i += 2 {
		name, ok := args[i].(string)
		if !ok {
			return "", fmt.Errorf("ceph %s: %v is no name", prefix, args[i])
		}
		command[name] = args[i+1]
	}
	return c.commands.call("", command)
}

// ask is Mon with the answer decoded.
func (c *Cluster) ask(into any, prefix string, args ...any) error {
	out, err := c.Mon(prefix, args...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("ceph %s answers %q: %w", prefix, out, err)
	}
	return nil
}
