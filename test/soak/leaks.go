package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
)

// A footprint is what lunard takes of the machine.
type footprint struct {
	resident    int64 // bytes
	descriptors int
	files       []string // what they are
	goroutines  int      // known once it has ended
}

const (
	// settleTime is how long what sessions leave behind may take to go.
	settleTime = 20 * time.Second
	settlePoll = 50 * time.Millisecond
	// maxGrowth is by how many bytes memory may have grown: buffers that are kept for the next load, and what the collector has not looked at.
	maxGrowth = 128 << 20
	// quitStatus is how a Go program ends on SIGQUIT, having written what its goroutines do.
	quitStatus = 2
	logTail    = 4000 // bytes
)

// measure is what can be seen from outside.
func measure(pid int) (footprint, error) {
	var f footprint
	proc := fmt.Sprintf("/proc/%d/", pid)
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		return f, err
	}
	f.descriptors = len(fds)
	for _, fd := range fds {
		name, err := os.Readlink(proc + "fd/" + fd.Name())
		if err != nil {
			name = err.Error() // it was closed meanwhile
		}
		f.files = append(f.files, fd.Name()+" "+name)
	}
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		return f, err
	}
	for line := range strings.Lines(string(status)) {
		if name, value, _ := strings.Cut(line, ":"); name == "VmRSS" {
			n, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				return f, err
			}
			f.resident = n << 10
		}
	}
	return f, nil
}

// quit ends d by SIGQUIT and returns what its goroutines did, but for those of the runtime and the file stores' workers, which come with load and go
// after a while without, and its log up to there.
func quit(d *daemon.Daemon) (goroutines []string, log string, err error) {
	if err := d.End(syscall.SIGQUIT, quitStatus); err != nil {
		return nil, "", err
	}
	log, dump, ok := strings.Cut(d.Log(), "SIGQUIT: quit")
	if !ok {
		return nil, log, fmt.Errorf("lunard did not say what its goroutines do")
	}
	for part := range strings.SplitSeq(dump, "\n\n") {
		if strings.HasPrefix(part, "goroutine ") && !strings.HasPrefix(part, "goroutine 0 ") && !strings.Contains(part, "created by runtime.") && !strings.Contains(part, "backstore/file.(*pool).work") {
			goroutines = append(goroutines, part)
		}
	}
	return goroutines, log, nil
}

// touch logs in to every target once and uses every disk, so that what is made on first use is there. The disks stay what they are: all zeroes.
func (r *run) touch(ctx context.Context) error {
	for t, ds := range r.layout.targets {
		s, err := initiator.Login(ctx, initiator.Options{Portal: r.portal(), TargetName: daemon.Prefix + targetName(t)})
		if err != nil {
			return err
		}
		for _, d := range ds {
			if err := touchDisk(ctx, s, d); err != nil {
				return err
			}
		}
		if err := s.Logout(ctx); err != nil {
			return err
		}
	}
	return nil
}

// touchDisk sends a few commands of each kind, many at once.
func touchDisk(ctx context.Context, s *initiator.Session, d *disk) error {
	n := uint32(8)
	data := make([]byte, uint64(n)*d.blockSize)
	var tasks []*initiator.Task
	for i := range uint64(4 * n) {
		for _, c := range []struct {
			b   [cdb.MaxLen]byte
			out []byte
			in  int
		}{{b: cdb.Transfer(cdb.Write10, i*uint64(n), n, byte(i%2)*cdb.FUA), out: data}, {b: cdb.Transfer(cdb.Read10, i*uint64(n), n, 0), in: len(data)},
			{b: cdb.Transfer(cdb.SynchronizeCache10, 0, 0, 0)}, {b: cdb.Transfer(cdb.WriteSame10, i*uint64(n), n, sameUnmap), out: data[:d.blockSize]}} {
			t, err := s.Start(d.lun, c.b[:cdb.Len(c.b[0])], c.out, c.in)
			if err != nil {
				return err
			}
			tasks = append(tasks, t)
		}
	}
	for _, t := range tasks {
		if _, err := t.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// baseline is the footprint of a daemon that nobody has worked with.
func (r *run) baseline(ctx context.Context) (footprint, error) {
	if err := r.launch("127.0.0.1:0"); err != nil {
		return footprint{}, err
	}
	d := r.daemon()
	err := r.touch(ctx)
	var f footprint
	if err == nil {
		f, err = settled(d.PID(), 0)
	}
	list, _, qerr := quit(d)
	if err == nil {
		err = qerr
	}
	f.goroutines = len(list)
	return f, err
}

// settled measures until there are at most so many descriptors, or, with 0, twice the same.
func settled(pid, most int) (f footprint, err error) {
	for end := time.Now().Add(settleTime); ; {
		before := f.descriptors
		if f, err = measure(pid); err != nil {
			return f, err
		}
		if most == 0 && f.descriptors == before || most > 0 && f.descriptors <= most || time.Now().After(end) {
			return f, nil
		}
		time.Sleep(settlePoll)
	}
}

// finish holds lunard, whom everybody has left, against what it was at the start, then starts it once more and reads all disks.
func (r *run) finish(ctx context.Context, before footprint) error {
	d := r.daemon()
	after, err := settled(d.PID(), before.descriptors)
	if err != nil {
		return err
	}
	list, log, err := quit(d)
	if err != nil {
		return err
	}
	after.goroutines = len(list)
	fmt.Fprintf(r.out, "lunard at the end and when fresh: %d and %d MiB resident, %d and %d descriptors, %d and %d goroutines\n",
		after.resident>>20, before.resident>>20, after.descriptors, before.descriptors, after.goroutines, before.goroutines)
	if err := sound(log); err != nil {
		return err
	}
	switch {
	case after.descriptors > before.descriptors:
		return fmt.Errorf("descriptors leaked: %d, and %d in a fresh lunard; it has\n%s", after.descriptors, before.descriptors, strings.Join(after.files, "\n"))
	case after.goroutines > before.goroutines:
		return fmt.Errorf("goroutines leaked: %d, and %d in a fresh lunard\n%s", after.goroutines, before.goroutines, strings.Join(list, "\n\n"))
	case after.resident > before.resident+maxGrowth:
		return fmt.Errorf("memory leaked: %d MiB, and %d MiB in a fresh lunard", after.resident>>20, before.resident>>20)
	}
	for _, v := range r.layout.volumes {
		if err := v.h.SettleAll(); err != nil {
			return err
		}
	}
	if err := r.launch(d.Addr); err != nil {
		return err
	}
	if err := r.verifyAll(ctx); err != nil {
		return err
	}
	if err := r.daemon().End(syscall.SIGTERM, 0); err != nil {
		return err
	}
	fmt.Fprintf(r.out, "no violation: %s\n", r.sum())
	return sound(r.daemon().Log())
}

// sound looks for faults of lunard's own in its log.
func sound(log string) error {
	for _, sign := range []string{"a fault in lunar itself", "panic:", "fatal error:", "DATA RACE"} {
		if at := strings.Index(log, sign); at >= 0 {
			return fmt.Errorf("lunard's log: %s", log[max(0, at-200):min(len(log), at+logTail)])
		}
	}
	return nil
}

// strayed reports whether lunard could not close a store because of requests that hang.
func strayed(log string) bool { return strings.Contains(log, "requests have not ended") }

func tail(log string) string { return log[max(0, len(log)-logTail):] }
