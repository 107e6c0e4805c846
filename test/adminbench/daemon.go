package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lunar-iscsi/lunar/session/initiator/load"
)

// Bounds.
const (
	startTimeout = 60 * time.Second
	pollEvery    = 10 * time.Millisecond
	clientGrace  = 30 * time.Second
	logTail      = 800 // bytes of a daemon's log that an error shows
	busyBytes    = 64 << 20
	scrapesTaken = 20
	warmUp       = 5 // scrapes before these
)

func iqn(i int) string { return fmt.Sprintf("iqn.2026-11.io.lunar:admin%d", i) }

// A daemon is a lunard under way. It belongs to one goroutine.
type daemon struct {
	portal, socket, metrics string
	calls                   int // made so far: which is next
	cmd                     *exec.Cmd
	log                     *os.File
	ended                   chan struct{}
	err                     error // set before ended is closed
}

// start starts lunard with saved state in dir, and makes so many targets that anybody may use: the first with a disk on a file at LUN 1,
// the others with one on nothing.
func start(ctx context.Context, lunard, dir string, targets int) (*daemon, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	d := &daemon{socket: filepath.Join(dir, "tgt.0"), log: log, ended: make(chan struct{})}
	if d.portal, err = freeAddress(); err != nil {
		return nil, err
	}
	if d.metrics, err = freeAddress(); err != nil {
		return nil, err
	}
	d.cmd = exec.Command(lunard, "--portal", d.portal, "--state-dir", filepath.Join(dir, "state"), "--metrics", d.metrics, "--tgt-socket", strings.TrimSuffix(d.socket, ".0"),
		"--listen-admin", "none")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	if err = d.listens(ctx); err == nil {
		err = d.fill(ctx, targets)
	}
	if err != nil {
		d.kill()
		return nil, err
	}
	return d, nil
}

// fill makes the targets.
func (d *daemon) fill(ctx context.Context, targets int) error {
	disk := filepath.Join(filepath.Dir(d.socket), "disk.img")
	if err := os.WriteFile(disk, make([]byte, busyBytes), 0o600); err != nil { // written, so that reads find pages and not holes
		return err
	}
	for i := 1; i <= targets; i++ {
		volume := "path=null,bstype=null"
		if i == 1 {
			volume = "path=" + disk
		}
		for _, c := range []call{
			{name: "new", mode: modeTarget, op: opNew, tid: int32(i), lun: noLUN, payload: "targetname=" + iqn(i)},
			{name: "new LUN", mode: modeUnit, op: opNew, tid: int32(i), lun: 1, payload: volume},
			{name: "bind", mode: modeTarget, op: opBind, tid: int32(i), lun: noLUN, payload: "initiator-address=ALL"},
		} {
			if _, err := c.do(ctx, d.socket); err != nil {
				return errors.Join(err, d.failed())
			}
		}
	}
	return nil
}

func (d *daemon) listens(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var dialer net.Dialer
	for {
		if c, err := dialer.DialContext(ctx, "tcp", d.portal); err == nil {
			return c.Close()
		}
		select {
		case <-d.ended:
			return d.failed()
		case <-ctx.Done():
			return fmt.Errorf("lunard does not listen: %w", ctx.Err())
		case <-time.After(pollEvery):
		}
	}
}

// failed says what the end of the daemon's log is.
func (d *daemon) failed() error {
	b, err := os.ReadFile(d.log.Name())
	if err != nil {
		return err
	}
	return fmt.Errorf("lunard said: %s", bytes.TrimSpace(b[max(0, len(b)-logTail):]))
}

func (d *daemon) kill() {
	_ = d.cmd.Process.Kill() // it may have ended
	<-d.ended
	_ = d.log.Close()
}

// load puts the first target of a portal under load and returns the I/Os a second.
func (o *options) load(ctx context.Context, portal string) (float64, error) {
	c := exec.CommandContext(ctx, o.lunarctl, "bench", "--json", "--progress=false", "--bs", "4k", "--depth", "32",
		"--seconds", fmt.Sprint(o.seconds), fmt.Sprintf("iscsi://%s/%s/1", portal, iqn(1)))
	out, err := c.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return 0, fmt.Errorf("lunarctl: %w", err)
	}
	var r load.Report
	if err := json.Unmarshal(out, &r); err != nil {
		return 0, err
	}
	if r.Errors != 0 || r.IOPS == 0 {
		return 0, fmt.Errorf("the load had %d errors at %.0f IOPS: %s", r.Errors, r.IOPS, r.FirstError)
	}
	return r.IOPS, nil
}

// scrapes fetches the metrics of a daemon with many targets.
func scrapes(ctx context.Context, o *options, dir string, t *table) error {
	begun := time.Now()
	d, err := start(ctx, o.lunard, filepath.Join(dir, "many"), o.targets)
	if err != nil {
		return err
	}
	defer d.kill()
	t.add(fmt.Sprintf("%d targets made, each by three calls that are saved", o.targets), fmt.Sprintf("%.1f s", time.Since(begun).Seconds()))
	var took []time.Duration
	size := 0
	for i := range warmUp + scrapesTaken {
		begun := time.Now()
		n, err := scrape(ctx, "http://"+d.metrics+"/metrics")
		if err != nil {
			return errors.Join(err, d.failed())
		}
		if i >= warmUp {
			took = append(took, time.Since(begun))
		}
		size = n
	}
	t.add("size of a scrape", fmt.Sprintf("%.1f MiB", float64(size)/(1<<20)))
	worst := quantile(took, 1)
	t.goal(fmt.Sprintf("scrape with %d targets, p50, p99, most", o.targets), latencies(took), "< "+goalScrape.String(), worst < goalScrape)
	return nil
}

func scrape(ctx context.Context, url string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	n, err := io.Copy(io.Discard, r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, r.Status)
	}
	return int(n), err
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
