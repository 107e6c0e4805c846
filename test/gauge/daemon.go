package gauge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lunar-iscsi/lunar/session/initiator/load"
)

// Bounds of a daemon's life.
const (
	startTimeout = 60 * time.Second
	pollEvery    = 10 * time.Millisecond
	logTail      = 800 // bytes of the daemon's log that an error shows
)

// Build builds lunard and lunarctl into dir, but for those that are named already. It is run in the module's root.
func Build(ctx context.Context, dir string, lunard, lunarctl *string) error {
	for _, b := range []struct {
		path *string
		pkg  string
	}{{lunard, "./cmd/lunard"}, {lunarctl, "./cmd/lunarctl"}} {
		if *b.path != "" {
			continue
		}
		*b.path = filepath.Join(dir, filepath.Base(b.pkg))
		if out, err := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", *b.path, b.pkg).CombinedOutput(); err != nil {
			return fmt.Errorf("building %s (run this in the module's root): %w: %s", b.pkg, err, out)
		}
	}
	return nil
}

// A Daemon is a lunard under way. It belongs to one goroutine, Ended aside.
type Daemon struct {
	PID   int
	Ended <-chan struct{} // closed when the process has ended

	cmd *exec.Cmd
	log *os.File
	err error // set before Ended is closed
}

// Start starts lunard and returns when it takes connections at portal. Its log goes to a file in dir. The daemon ends with the thread that
// started it, which the caller keeps alive (runtime.LockOSThread).
func Start(ctx context.Context, lunard, dir, portal string, args ...string) (*Daemon, error) {
	log, err := os.CreateTemp(dir, "lunard-*.log")
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	d := &Daemon{cmd: exec.Command(lunard, args...), log: log, Ended: ended}
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	d.PID = d.cmd.Process.Pid
	go func() {
		d.err = d.cmd.Wait()
		close(ended)
	}()
	if err := d.listens(ctx, portal); err != nil {
		d.Kill()
		return nil, err
	}
	return d, nil
}

func (d *Daemon) listens(ctx context.Context, portal string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var dialer net.Dialer
	for {
		if c, err := dialer.DialContext(ctx, "tcp", portal); err == nil {
			return c.Close()
		}
		select {
		case <-d.Ended:
			return d.Failed()
		case <-ctx.Done():
			return fmt.Errorf("lunard does not listen: %w", ctx.Err())
		case <-time.After(pollEvery):
		}
	}
}

// Failed says how the daemon ended, if it has, with the end of its log.
func (d *Daemon) Failed() error {
	b, err := os.ReadFile(d.log.Name())
	if err != nil {
		return err
	}
	said := bytes.TrimSpace(b[max(0, len(b)-logTail):])
	select {
	case <-d.Ended:
		return fmt.Errorf("lunard ended (%v): %s", d.err, said)
	default:
		return fmt.Errorf("lunard said: %s", said)
	}
}

// Kill ends the daemon without a chance to say goodbye, as a crash does. It may have ended, or been killed, before.
func (d *Daemon) Kill() {
	_ = d.cmd.Process.Kill()
	<-d.Ended
	_ = d.log.Close()
}

// FreeAddress returns a loopback address that nobody listens at.
func FreeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// FreePort is FreeAddress for who wants the port alone. Another program can take it before it is used; the start of the server then fails
// and says so.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// grace is what a load may take longer than it is to last.
const grace = 30 * time.Second

// Load puts 4 KiB reads of lunarctl bench on a disk, so many at once and for so long; more are further options of that command.
func Load(ctx context.Context, lunarctl, portal, iqn string, lun, depth int, seconds float64, more ...string) (*load.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds*float64(time.Second))+grace)
	defer cancel()
	args := append([]string{"bench", "--json", "--progress=false", "--depth", fmt.Sprint(depth), "--seconds", fmt.Sprint(seconds)}, more...)
	c := exec.CommandContext(ctx, lunarctl, append(args, fmt.Sprintf("iscsi://%s/%s/%d", portal, iqn, lun))...)
	out, err := c.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("lunarctl: %w", err)
	}
	r := new(load.Report)
	return r, json.Unmarshal(out, r)
}
