package adminchaos

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/history"
)

// loginPause is how long an initiator stays away that was refused.
const loginPause = 5 * time.Millisecond

func initiatorName(i int) string { return fmt.Sprintf("iqn.2026-11.io.lunar:initiator%d", i) }

// A worker is an initiator that comes back all the time.
type worker struct {
	*life
	id     int
	rnd    *rand.Rand
	target int
	s      *initiator.Session
	left   *initiator.Session // the last one that was left open
	disks  map[uint16]string  // by number, the serial number of the disk that is behind it as far as we have been told
}

// writer says in histories who has written: what an initiator has lost at one target is over when it has logged in there again.
func (w *worker) writer() uint32 { return uint32(w.id*targets + w.target) }

// work goes from session to session until ctx ends.
func (w *worker) work(ctx context.Context) error {
	defer func() {
		if w.left != nil {
			w.left.Close()
		}
	}()
	for ctx.Err() == nil {
		if w.rnd.IntN(2) == 0 {
			w.target = w.rnd.IntN(targets)
		}
		if !w.login(ctx) {
			select {
			case <-ctx.Done():
			case <-time.After(loginPause):
			}
			continue
		}
		err := w.session(ctx)
		switch w.rnd.IntN(3) {
		case 0:
			octx, cancel := context.WithTimeout(context.Background(), patience)
			if lerr := w.s.Logout(octx); octx.Err() != nil {
				err = errors.Join(err, fmt.Errorf("no answer to a logout: %w", lerr))
			}
			cancel()
		case 1:
			w.s.Close()
		default: // the next login takes its place, if it is to the same target
			if w.left != nil {
				w.left.Close()
			}
			w.left = w.s
		}
		if err != nil {
			return fmt.Errorf("initiator %d at %s: %w", w.id, name(w.target), err)
		}
	}
	return nil
}

// login tries once. All that can be refused may be: the target is gone, offline or wants another password.
func (w *worker) login(ctx context.Context) bool {
	o := initiator.Options{Portal: w.portal, TargetName: name(w.target), InitiatorName: initiatorName(w.id), ISID: [6]byte{0x80, 0, 0, 0, 0, 1}}
	if list := w.m.Portals(); w.rnd.IntN(3) == 0 {
		o.Portal = list[w.rnd.IntN(len(list))].Bound.String()
		o.ISID[5] = 1 // the port group is another, so that this is another nexus
	}
	if w.rnd.IntN(3) == 0 {
		o.CHAP = &initiator.CHAP{Name: accountNames[w.rnd.IntN(len(accountNames))], Secret: []byte(secrets[w.rnd.IntN(len(secrets))])}
	}
	if w.rnd.IntN(50) == 0 {
		_, _ = initiator.Discover(ctx, o) // may be refused
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := initiator.Login(ctx, o)
	if err != nil {
		return false
	}
	w.s = s
	w.logins.Add(1)
	return true
}

// session uses the target for a while. The error is a violation.
func (w *worker) session(ctx context.Context) error {
	w.disks = map[uint16]string{}
	for range 5 + w.rnd.IntN(40) {
		if ctx.Err() != nil || w.s.Err() != nil {
			break
		}
		var all []*flight
		for _, lun := range w.rnd.Perm(maxLUN)[:1+w.rnd.IntN(maxLUN)] {
			f, err := w.launch(uint16(lun + 1))
			if err != nil {
				return err
			}
			if f != nil {
				all = append(all, f)
			}
		}
		if w.rnd.IntN(60) == 0 {
			w.s.Close() // in the midst of it
		}
		for _, f := range all {
			if err := w.land(f); err != nil {
				return err
			}
		}
	}
	var v *initiator.ViolationError
	var r *initiator.RejectError
	if err := w.s.Err(); errors.As(err, &v) || errors.As(err, &r) {
		return err
	}
	return nil
}

// A flight is a READ or WRITE under way.
type flight struct {
	lun  uint16
	task *initiator.Task
	op   *history.Op
	h    *history.History
	what string
}

// launch sends a command to a number, of which it is known, or asked before, what is behind it. Nil: nothing is.
func (w *worker) launch(lun uint16) (*flight, error) {
	if w.disks[lun] == "" {
		if err := w.identify(lun); err != nil || w.disks[lun] == "" {
			return nil, err
		}
	}
	f := &flight{lun: lun, h: w.history(w.disks[lun])}
	n := uint64(1 + w.rnd.IntN(16))
	lba := w.rnd.Uint64N(blocks - n + 1)
	var b [16]byte
	var out []byte
	in := 0
	if w.rnd.IntN(2) == 0 {
		initiator.PutWrite(&b, lba, uint32(n))
		f.what = fmt.Sprintf("WRITE of %d blocks at %d to LUN %d of %s", n, lba, lun, name(w.target))
		f.op = f.h.Write(w.writer(), lba, n, false, f.what)
		out = make([]byte, n*blockSize)
		f.op.Fill(out)
	} else {
		initiator.PutRead(&b, lba, uint32(n))
		f.what = fmt.Sprintf("READ of %d blocks at %d from LUN %d of %s", n, lba, lun, name(w.target))
		f.op = f.h.Read(w.writer(), lba, n, f.what)
		in = int(n * blockSize)
	}
	var err error
	if f.task, err = w.s.Start(sam.NewLUN(lun), b[:10], out, in); err != nil {
		return nil, f.op.Refused() // the session is over; it was not sent
	}
	return f, nil
}

// land waits for the end of a command and tells the history.
func (w *worker) land(f *flight) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := f.task.Wait(ctx)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("no answer within %v to %s", patience, f.what)
	case err != nil:
		f.op.Lost()
		return nil
	}
	w.ios.Add(1)
	key, asc, ascq, _ := initiator.SenseFields(res.Sense)
	switch {
	case res.Err() == nil:
		return f.op.Done(res.Data)
	case res.Status == sam.Busy, res.Status == sam.TaskSetFull:
		return f.op.Refused()
	case res.Status == sam.TaskAborted: // the disk was taken away by force
		w.disks[f.lun] = ""
		return f.op.Failed()
	case res.Status != sam.CheckCondition:
	case key == byte(sense.UnitAttention):
		w.turned.Add(1)
		w.disks[f.lun] = ""
		return f.op.Refused()
	case key == byte(sense.DataProtect) && asc == 0x27:
		return f.op.Refused()
	case key == byte(sense.NotReady) && asc == 0x3a, key == byte(sense.IllegalRequest) && asc == 0x25:
		// The disk went offline, or away; the store may have had the command by then.
		w.disks[f.lun] = ""
		return f.op.Failed()
	}
	return fmt.Errorf("%s: %w (%x/%02x/%02x)", f.what, res.Err(), key, asc, ascq)
}

// identify asks what is behind a number. INQUIRY leaves unit attentions where they are, so that whatever comes there later is told of
// before it is written to.
func (w *worker) identify(lun uint16) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := w.s.Command(ctx, sam.NewLUN(lun), initiator.InquiryVPD(0x80, 255), nil, 255)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("no answer to INQUIRY of LUN %d", lun)
	case err != nil || res.Err() != nil || len(res.Data) < 4 || res.Data[0] != 0:
		return nil // nobody there
	}
	n := int(binary.BigEndian.Uint16(res.Data[2:]))
	if n > len(res.Data)-4 {
		return fmt.Errorf("a VPD page 80h of %d bytes, of which %d came", n, len(res.Data)-4)
	}
	w.disks[lun] = strings.TrimSpace(string(res.Data[4 : 4+n]))
	return nil
}
