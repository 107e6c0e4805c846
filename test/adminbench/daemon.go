package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/test/gauge"
)

const (
	busyBytes    = 64 << 20
	scrapesTaken = 20
	warmUp       = 5 // scrapes before these
)

func iqn(i int) string { return fmt.Sprintf("iqn.2026-11.io.lunar:admin%d", i) }

// A daemon is a lunard under way. It belongs to one goroutine.
type daemon struct {
	*gauge.Daemon
	portal, socket, metrics string
	calls                   int // made so far: which is next
}

// start starts lunard with saved state in dir, and makes so many targets that anybody may use: the first with a disk on a file at LUN 1,
// the others with one on nothing.
func start(ctx context.Context, lunard, dir string, targets int) (*daemon, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	d := &daemon{socket: filepath.Join(dir, "tgt.0")}
	var err error
	if d.portal, err = gauge.FreeAddress(); err != nil {
		return nil, err
	}
	if d.metrics, err = gauge.FreeAddress(); err != nil {
		return nil, err
	}
	if d.Daemon, err = gauge.Start(ctx, lunard, dir, d.portal, "--portal", d.portal, "--state-dir", filepath.Join(dir, "state"), "--metrics", d.metrics,
		"--tgt-socket", strings.TrimSuffix(d.socket, ".0"), "--listen-admin", "none"); err != nil {
		return nil, err
	}
	if err := d.fill(ctx, targets); err != nil {
		d.Kill()
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
				return errors.Join(err, d.Failed())
			}
		}
	}
	return nil
}

// load puts the first target of a portal under load and returns the I/Os a second.
func (o *options) load(ctx context.Context, portal string) (float64, error) {
	r, err := gauge.Load(ctx, o.lunarctl, portal, iqn(1), 1, 32, o.seconds)
	if err == nil && (r.Errors != 0 || r.IOPS == 0) {
		err = fmt.Errorf("the load had %d errors at %.0f IOPS: %s", r.Errors, r.IOPS, r.FirstError)
	}
	if err != nil {
		return 0, err
	}
	return r.IOPS, nil
}

// scrapes fetches the metrics of a daemon with many targets.
func scrapes(ctx context.Context, o *options, dir string, t *gauge.Table) error {
	begun := time.Now()
	d, err := start(ctx, o.lunard, filepath.Join(dir, "many"), o.targets)
	if err != nil {
		return err
	}
	defer d.Kill()
	t.Add(fmt.Sprintf("%d targets made, each by three calls that are saved", o.targets), fmt.Sprintf("%.1f s", time.Since(begun).Seconds()))
	var took []time.Duration
	size := 0
	for i := range warmUp + scrapesTaken {
		begun := time.Now()
		n, err := scrape(ctx, "http://"+d.metrics+"/metrics")
		if err != nil {
			return errors.Join(err, d.Failed())
		}
		if i >= warmUp {
			took = append(took, time.Since(begun))
		}
		size = n
	}
	t.Add("size of a scrape", fmt.Sprintf("%.1f MiB", float64(size)/(1<<20)))
	worst := quantile(took, 1)
	t.Goal(fmt.Sprintf("scrape with %d targets, p50, p99, most", o.targets), latencies(took), "< "+goalScrape.String(), worst < goalScrape)
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
