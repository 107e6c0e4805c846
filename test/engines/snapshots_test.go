package engines

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/history"
)

// abilities are what the table speaks of: the words of lunarctl store list.
var abilities = []string{"snapshot", "rollback", "clone", "flatten", "delete", "restore"}

// A Namer is an instance that says what a volume for a clone of another is called, and makes it where the driver does not. Those of others are called
// as that other is, with -NAME behind it.
type Namer interface {
	Beside(t *testing.T, uri, name string) string
}

func beside(t *testing.T, in Instance, uri, name string) string {
	if n, ok := in.(Namer); ok {
		return n.Beside(t, uri, name)
	}
	volume, options, has := strings.Cut(uri, "?")
	if volume += "-" + name; has {
		volume += "?" + options
	}
	return volume
}

const (
	slots     = 64        // places that are written in turn
	slotSize  = 4096      // bytes
	slotEvery = 256 << 10 // bytes from one to the next: a copy takes a while to pass them all

	behindSlots = slots * slotEvery / blockSize // where there is room for a load
)

// A row is one initiator that writes numbers, one after the other: k to slot k mod slots. What has them at one moment has, for some m, each
// number up to m that no later one up to m has replaced, and nothing of those behind m.
type row struct {
	s             *initiator.Session
	issued, acked atomic.Int64
	end           chan struct{}
	ended         chan error
}

func startRow(t *testing.T, d *daemon.Daemon) *row {
	t.Helper()
	s, err := login(t.Context(), d, disk, 70)
	if err != nil {
		t.Fatal(err)
	}
	r := &row{s: s, end: make(chan struct{}), ended: make(chan error, 1)}
	go func() { r.ended <- r.run(t.Context()) }()
	t.Cleanup(func() { s.Close() })
	return r
}

func (r *row) run(ctx context.Context) error {
	for k := int64(1); ; k++ {
		select {
		case <-r.end:
			return nil
		default:
		}
		r.issued.Store(k)
		if err := writeSlot(ctx, r.s, lun1, k); err != nil {
			return err
		}
		r.acked.Store(k)
	}
}

func writeSlot(ctx context.Context, s *initiator.Session, lun sam.LUN, k int64) error {
	ctx, cancel := context.WithTimeout(ctx, healing)
	defer cancel()
	var b [16]byte
	initiator.PutWrite(&b, uint64(k%slots)*slotEvery/blockSize, slotSize/blockSize)
	_, err := again(ctx, s, lun, b[:10], bytes.Repeat(binary.BigEndian.AppendUint64(nil, uint64(k)), slotSize/8), 0)
	return err
}

// fill writes what lies between the slots, so that there is something to copy.
func fill(t *testing.T, d *daemon.Daemon) {
	t.Helper()
	s, err := login(t.Context(), d, disk, 73)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	noise := make([]byte, slotEvery-slotSize)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(noise) // never fails
	for i := range uint64(slots) {
		var b [16]byte
		initiator.PutWrite(&b, (i*slotEvery+slotSize)/blockSize, uint32(len(noise)/blockSize))
		if _, err := again(t.Context(), s, lun1, b[:10], noise, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// again sends a command, once more after each unit attention: LUNs come and go here.
func again(ctx context.Context, s *initiator.Session, lun sam.LUN, cdb, out []byte, in int) (data []byte, err error) {
	for {
		res, err := s.Command(ctx, lun, cdb, out, in)
		if err == nil {
			err = res.Err()
		}
		if err == nil || !strings.Contains(err.Error(), "UNIT ATTENTION") {
			return res.Data, err
		}
	}
}

// progress waits until n more have been written.
func (r *row) progress(t *testing.T, n int64) {
	t.Helper()
	for want, over := r.acked.Load()+n, time.After(healing); r.acked.Load() < want; {
		select {
		case err := <-r.ended:
			t.Fatalf("after number %d: %v", r.acked.Load(), err)
		case <-over:
			t.Fatalf("it stays at number %d", r.acked.Load())
		case <-time.After(time.Millisecond):
		}
	}
}

// stop ends it, and returns the last number.
func (r *row) stop(t *testing.T) int64 {
	t.Helper()
	close(r.end)
	if err := <-r.ended; err != nil {
		t.Fatal(err)
	}
	r.s.Close()
	return r.acked.Load()
}

// readRow reads all slots of a LUN, in a session of its own, and returns m: the number up to which it has all.
func readRow(t *testing.T, d *daemon.Daemon, lun uint16) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), healing)
	defer cancel()
	s, err := login(ctx, d, disk, 71)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var has [slots]int64
	for i := range has {
		var b [16]byte
		initiator.PutRead(&b, uint64(i)*slotEvery/blockSize, slotSize/blockSize)
		data, err := again(ctx, s, sam.NewLUN(lun), b[:10], nil, slotSize)
		if err != nil || len(data) != slotSize {
			t.Fatalf("LUN %d slot %d: %v, %d bytes", lun, i, err, len(data))
		}
		if has[i] = int64(binary.BigEndian.Uint64(data)); !bytes.Equal(data, bytes.Repeat(data[:8], slotSize/8)) {
			t.Errorf("LUN %d slot %d is torn", lun, i)
		}
	}
	m := slices.Max(has[:])
	for i, k := range has {
		want := m - (m-int64(i))%slots
		if m < int64(i) || want <= 0 {
			want = 0
		}
		if k != want {
			t.Errorf("LUN %d is of no one moment: slot %d has number %d, want %d, since there is number %d", lun, i, k, want, m)
		}
	}
	return m
}

// snapshots takes snapshots of a disk under load, clones them, rolls back, deletes and restores, as far as the engine can.
func snapshots(t *testing.T, e *Engine, in Instance) {
	uri := in.Volume(t, e.size(64<<20))
	dir, err := os.MkdirTemp("", "lunar") // the test's own folder may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &control{t: t, server: "--server=unix:" + filepath.Join(dir, "admin")}
	d := e.lunard(t, "--listen-admin="+strings.TrimPrefix(c.server, "--server="), daemon.Export("beside", "mem:?size=64M"))
	scheme, _, _ := strings.Cut(uri, ":")
	can := c.can(scheme)
	for _, w := range abilities {
		switch why := e.Lacks[w]; {
		case can[w] == (why != ""):
			t.Errorf("the driver can %q: %v; the table has it that it cannot because %q", w, can[w], why)
		case why != "":
			t.Logf("no %s: %s", w, why)
		}
	}
	if !can["snapshot"] {
		c.refused(1, "snapshot", "create", uri, "one")
		d.Stop(t)
		return
	}
	target := daemon.Prefix + disk
	c.do("target", "add", target, "--address", "ALL", "--lun", "1="+uri)
	fill(t, d)
	r := startRow(t, d)
	r.progress(t, 3*slots)
	// Beside it, many commands of two initiators on a few blocks.
	h := newHistory()
	l := startLoadAt(t, d, disk, h, behindSlots, false)
	l.progress(t, 1000, healing)
	// Each is of one moment between its command's beginning and end.
	names, from, to, cuts := []string{"one", "two", "three"}, map[string]int64{}, map[string]int64{}, map[string]*history.Cut{}
	for _, n := range names {
		from[n], cuts[n] = r.acked.Load(), h.Cut("snapshot "+n)
		c.do("snapshot", "create", uri, n)
		cuts[n].Taken()
		to[n] = r.issued.Load()
		r.progress(t, slots/2)
		l.progress(t, 1000, healing)
	}
	c.refused(4, "snapshot", "create", uri, "one")
	if can["delete"] {
		c.refused(5, "volume", "delete", uri, "--purge", "--force")
	}
	c.refused(5, "snapshot", "rollback", uri, "one", "--force")
	if got := c.names("snapshot", "list", uri); !slices.Equal(got, names) {
		t.Errorf("snapshots %v, want %v", got, names)
	}
	moment := func(lun uint16, n string) {
		t.Helper()
		if m := readRow(t, d, lun); m < from[n] || m > to[n] {
			t.Errorf("snapshot %s ends with number %d; %d was answered before it, %d begun behind it", n, m, from[n], to[n])
		}
		if err := cuts[n].Holds(readAll(t, d, disk, sam.NewLUN(lun), behindSlots)); err != nil {
			t.Errorf("LUN %d: %v", lun, err)
		}
	}
	var clones []string
	if can["clone"] {
		for i, n := range names {
			to := beside(t, in, uri, n)
			clones = append(clones, to)
			c.do("clone", "create", uri, to, "--snapshot", n)
			c.do("lun", "add", target, fmt.Sprint(i+2), to)
			moment(uint16(i+2), n)
		}
	}
	last := r.stop(t)
	l.stop(t)
	for i := range clones { // what is written to a clone is in it, and nowhere else
		s, err := login(t.Context(), d, disk, 72)
		if err != nil {
			t.Fatal(err)
		}
		m := readRow(t, d, uint16(i+2))
		if err := writeSlot(t.Context(), s, sam.NewLUN(uint16(i+2)), m+1); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if now := readRow(t, d, uint16(i+2)); now != m+1 {
			t.Errorf("clone %d ends with number %d, want %d", i, now, m+1)
		}
	}
	if m := readRow(t, d, 1); m != last {
		t.Errorf("the volume ends with number %d, want %d", m, last)
	}
	l.verify(t, d, disk)
	if can["rollback"] {
		for _, n := range []string{"two", "one", "three"} {
			c.do("lun", "offline", target, "1")
			c.do("snapshot", "rollback", uri, n, "--force")
			c.do("lun", "online", target, "1")
			moment(1, n)
		}
	}
	for i, clone := range clones {
		if can["flatten"] {
			c.do("clone", "flatten", clone)
		}
		c.do("lun", "remove", target, fmt.Sprint(i+2))
		if can["delete"] {
			c.do("volume", "delete", clone, "--purge", "--force")
		}
	}
	before := readRow(t, d, 1)
	for _, n := range names {
		c.do("snapshot", "delete", uri, n)
	}
	if m := readRow(t, d, 1); m != before {
		t.Errorf("without its snapshots the volume ends with number %d, want %d", m, before)
	}
	c.refused(3, "snapshot", "delete", uri, "one")
	if can["delete"] {
		c.do("lun", "remove", target, "1")
		if can["restore"] {
			c.trashed(target, uri)
			if m := readRow(t, d, 1); m != before {
				t.Errorf("restored, the volume ends with number %d, want %d", m, before)
			}
			c.do("lun", "remove", target, "1")
		}
		c.do("volume", "delete", uri, "--purge", "--force")
		c.refused(3, "volume", "show", uri)
	}
	d.Stop(t)
}

// A control is lunarctl for one lunard.
type control struct {
	t      *testing.T
	server string
}

func (c *control) do(args ...string) string {
	c.t.Helper()
	return lunarctl(c.t, append([]string{c.server}, args...)...)
}

// refused runs what exits with a status.
func (c *control) refused(status int, args ...string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), healing)
	defer cancel()
	out, err := exec.CommandContext(ctx, daemon.Lunarctl(c.t), append([]string{c.server}, args...)...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != status {
		c.t.Errorf("lunarctl %s: %v, want exit status %d\n%s", strings.Join(args, " "), err, status, out)
	}
}

func (c *control) list(into any, args ...string) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(c.do(append(args, "--json")...)), into); err != nil {
		c.t.Fatal(err)
	}
}

func (c *control) names(args ...string) (out []string) {
	c.t.Helper()
	var list []struct{ Name, State string }
	c.list(&list, args...)
	for _, x := range list {
		if !strings.Contains(x.State, "by the engine for itself") {
			out = append(out, x.Name)
		}
	}
	return out
}

// can is what a driver can.
func (c *control) can(scheme string) map[string]bool {
	c.t.Helper()
	var list []struct {
		Scheme string
		Can    []string
	}
	c.list(&list, "store", "list")
	can := map[string]bool{}
	for _, x := range list {
		if x.Scheme == scheme {
			for _, w := range x.Can {
				can[w] = true
			}
		}
	}
	return can
}

// trashed deletes a volume into the trash, and brings it back as a LUN.
func (c *control) trashed(target, uri string) {
	c.t.Helper()
	where := uri
	c.do("volume", "delete", uri)
	var list []struct{ ID string }
	c.list(&list, "volume", "trash", where)
	if len(list) != 1 {
		c.t.Fatalf("the trash has %v", list)
	}
	c.do("volume", "restore", uri, list[0].ID)
	c.do("lun", "add", target, "1", uri)
}
