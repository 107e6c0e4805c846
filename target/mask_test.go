package target

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// listed is what REPORT LUNS tells a session, and at each LUN of 0 to 4 and 9 what INQUIRY and TEST UNIT READY say: the identity of
// the disk there, "controller" or "-" for none.
func (r *rig) listed(s *initiator.Session) string {
	r.t.Helper()
	res, err := s.Command(r.ctx(), sam.NewLUN(0), initiator.ReportLUNs(256), nil, 256)
	if err != nil || res.Status != sam.Good {
		r.t.Fatal(err, res.Err())
	}
	var words []string
	for b := res.Data[8:]; len(b) != 0; b = b[8:] {
		words = append(words, fmt.Sprint(int(b[0]&0x3f)<<8|int(b[1])))
	}
	list := strings.Join(words, ",")
	for _, n := range []uint16{0, 1, 2, 3, 4, 9} {
		if at := r.at(s, sam.NewLUN(n)); at != "-" {
			list += fmt.Sprintf(" %d:%s", n, at)
		}
	}
	return list
}

// at is what is at a LUN, by the serial number of its INQUIRY data.
func (r *rig) at(s *initiator.Session, lun sam.LUN) string {
	r.t.Helper()
	std, err := s.Command(r.ctx(), lun, initiator.Inquiry(36), nil, 36)
	if err != nil || std.Status != sam.Good {
		r.t.Fatal(err, std.Err())
	}
	switch std.Data[0] {
	case 0x7f:
		// There is no such LUN, whatever is asked for.
		res, err := s.Command(r.ctx(), lun, read10(0, 1), nil, 512)
		if err != nil {
			r.t.Fatal(err)
		}
		if key, asc, ascq, _ := initiator.SenseFields(res.Sense); key != 5 || asc != 0x25 || ascq != 0 {
			r.t.Errorf("a READ at LUN %v, which is not there: %x", lun, res.Sense)
		}
		if resp, err := s.TaskManagement(r.ctx(), sam.LogicalUnitReset, lun, nil); err != nil || resp != pdu.LUNDoesNotExist {
			r.t.Errorf("a reset of LUN %v, which is not there: %v, %v", lun, resp, err)
		}
		return "-"
	case 0x0c:
		return "controller"
	}
	res, err := s.Command(r.ctx(), lun, initiator.InquiryVPD(0x80, 64), nil, 64)
	if err != nil || res.Status != sam.Good {
		r.t.Fatal(err, res.Err())
	}
	return strings.TrimSpace(string(res.Data[4:]))
}

// disk adds a disk whose serial number is its name.
func (r *rig) disk(lun uint16, name string) {
	r.t.Helper()
	if err := r.tg.AddDisk(lun, newStore(r.t, ""), scsi.DiskConfig{Identity: name, Serial: name}); err != nil {
		r.t.Fatal(err)
	}
}

// TestMasks: what an initiator sees is what its mask shows, under the numbers there, and nothing else, whatever way it asks.
func TestMasks(t *testing.T) {
	r := newRig(t, Config{}, "")
	r.disk(2, "two")
	r.disk(3, "three")
	const masked = "iqn.2026-11.example:masked"
	for _, c := range []struct {
		luns []MaskLUN
		want string
	}{
		{nil, "0 0:controller"},
		{[]MaskLUN{{1, 3}}, "0,1 0:controller 1:three"},
		{[]MaskLUN{{9, 2}, {3, 3}}, "0,3,9 0:controller 3:three 9:two"},
		{[]MaskLUN{{0, 3}, {2, 2}}, "0,2 0:three 2:two"},
		{[]MaskLUN{{0, 0}, {2, 3}}, "0,2 0:controller 2:three"},
		{[]MaskLUN{{4, 0}, {2, 3}}, "0,2 0:controller 2:three"}, // the controller has no other number
		{[]MaskLUN{{4, 77}}, "0 0:controller"},
	} {
		r.edit(func(cfg *TargetConfig) {
			cfg.Masks = []Mask{{Initiator: "IQN.2026-11.example:m*", LUNs: c.luns}, {Initiator: masked}}
		})
		if got := r.listed(r.plain(masked, 1)); got != c.want {
			t.Errorf("%v: %s, want %s", c.luns, got, c.want)
		}
		if got := r.listed(r.plain("iqn.2026-11.example:all", 2)); !strings.HasPrefix(got, "0,1,2,3 ") {
			t.Errorf("%v: without a mask: %s", c.luns, got)
		}
	}
	r.edit(func(cfg *TargetConfig) { cfg.NoController, cfg.Masks[0].LUNs = true, []MaskLUN{{2, 3}} })
	if got := r.listed(r.plain(masked, 1)); got != "2 2:three" {
		t.Errorf("without a controller: %s", got)
	}
	// Both ways of writing a number are one LUN.
	s := r.plain(masked, 3)
	flat := sam.LUN(0x4002 << 48)
	if got := r.at(s, flat); got != "three" {
		t.Errorf("in flat space addressing: %s", got)
	}
}

// plain is a session that has not taken its unit attentions.
func (r *rig) plain(name string, n byte) *initiator.Session {
	r.t.Helper()
	o := r.options(n)
	o.InitiatorName = name
	s, err := initiator.Login(r.ctx(), o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.Close() })
	return s
}

// watched is a session that says how often it was told of other LUNs, and at which LUN.
func (r *rig) watched(name string, n byte) (*initiator.Session, chan sam.LUN) {
	r.t.Helper()
	told := make(chan sam.LUN, 16)
	o := r.options(n)
	o.InitiatorName = name
	o.OnAsync = func(p *initiator.PDU) {
		if key, asc, ascq, _ := initiator.SenseFields(p.Data[2:]); key == 6 && asc == 0x3f && ascq == 0x0e {
			told <- p.Header.LUN()
		}
	}
	s, err := initiator.Login(r.ctx(), o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.Close() })
	return s, told
}

// TestMaskChanges: a session learns of a new mask at once, by a message and by unit attentions; a command at a LUN that it loses ends TASK ABORTED,
// and the number of one unit that another takes says so. What happens behind a mask is not told.
func TestMaskChanges(t *testing.T) {
	r := newRig(t, Config{}, "write hang count=1")
	r.disk(2, "two")
	const masked = "iqn.2026-11.example:masked"
	mask := func(luns ...MaskLUN) {
		r.edit(func(cfg *TargetConfig) { cfg.Masks = []Mask{{Initiator: masked, LUNs: luns}} })
	}
	told := func(c chan sam.LUN, want sam.LUN) {
		t.Helper()
		select {
		case lun := <-c:
			if lun != want {
				t.Errorf("told at LUN %v, want %v", lun, want)
			}
		case <-time.After(testWait):
			t.Fatal("not told of other LUNs")
		}
	}
	quiet := func(s *initiator.Session, c chan sam.LUN, why string) {
		t.Helper()
		if _, err := s.Ping(r.ctx(), []byte("there")); err != nil { // what was to come has come before the answer
			t.Fatal(err)
		}
		select {
		case lun := <-c:
			t.Errorf("%s: told at LUN %v", why, lun)
		default:
		}
	}
	mask(MaskLUN{1, 1}, MaskLUN{2, 2})
	s, sTold := r.watched(masked, 1)
	all, allTold := r.watched("iqn.2026-11.example:all", 2)
	for _, lun := range []uint16{1, 2} {
		r.readyAt(s, sam.NewLUN(lun))
		r.readyAt(all, sam.NewLUN(lun))
	}
	task := r.hangs(s, 0, 1)

	// LUN 1 goes, and what was LUN 2 is another unit under a third number.
	mask(MaskLUN{9, 2})
	told(sTold, sam.NewLUN(0))
	if res, err := task.Wait(r.ctx()); err != nil || res.Status != sam.TaskAborted {
		t.Fatalf("the command at the LUN that went: %v, %v", res.Status, err)
	}
	quiet(all, allTold, "another's mask")
	r.calm(all, 1)
	r.store.Release()
	if got := r.listed(s); got != "0,9 0:controller 9:two" {
		t.Errorf("with the new mask: %s", got)
	}
	if got := r.next(s, sam.NewLUN(9)); got != 0x2900 {
		t.Errorf("at a LUN that is new: condition %04x", got)
	}
	// The same mask again, and a mask for others, are no change.
	mask(MaskLUN{9, 2})
	r.edit(func(cfg *TargetConfig) { cfg.Masks = append(cfg.Masks, Mask{Initiator: "iqn.other"}) })
	quiet(s, sTold, "the same mask")
	r.calm(s, 9)
	// LUN 2 goes by the number 1 now, where another unit was.
	mask(MaskLUN{1, 2})
	told(sTold, sam.NewLUN(0))
	var got []int
	for c := r.next(s, lun1); c != 0; c = r.next(s, lun1) {
		got = append(got, c)
	}
	if !slices.Equal(got, []int{0x2900, 0x3f03}) {
		t.Errorf("where another unit was: conditions %x", got)
	}
	// A disk behind the mask comes and goes.
	r.disk(3, "three")
	told(allTold, sam.NewLUN(0))
	if err := r.tg.RemoveLUN(r.ctx(), 3, false); err != nil {
		t.Fatal(err)
	}
	told(allTold, sam.NewLUN(0))
	quiet(s, sTold, "a disk behind the mask")
	r.calm(s, 1)
	// One that the mask shows under another number does not.
	mask(MaskLUN{1, 2}, MaskLUN{4, 3})
	quiet(s, sTold, "a disk that is not there yet")
	r.disk(3, "three")
	told(sTold, sam.NewLUN(0))
	if got := r.next(s, lun1); got != 0x3f0e {
		t.Errorf("at the other LUN: condition %04x, want 3f0e", got)
	}
	if got := r.at(s, sam.NewLUN(4)); got != "three" {
		t.Errorf("at LUN 4: %s", got)
	}
	// Without a mask it sees all.
	r.edit(func(cfg *TargetConfig) { cfg.Masks = nil })
	told(sTold, sam.NewLUN(0))
	if got := r.listed(s); !strings.HasPrefix(got, "0,1,2,3 ") {
		t.Errorf("without a mask: %s", got)
	}
}

// calm wants no unit attention at a LUN.
func (r *rig) calm(s *initiator.Session, lun uint16) {
	r.t.Helper()
	if got := r.next(s, sam.NewLUN(lun)); got != 0 {
		r.t.Errorf("condition %04x at LUN %d, want none", got, lun)
	}
}

// TestResetBehindMask: a TARGET WARM RESET resets the units that its initiator sees.
func TestResetBehindMask(t *testing.T) {
	r := newRig(t, Config{}, "")
	r.disk(2, "two")
	const masked = "iqn.2026-11.example:masked"
	r.edit(func(cfg *TargetConfig) { cfg.Masks = []Mask{{Initiator: masked, LUNs: []MaskLUN{{1, 2}}}} })
	all, s := r.login(1), r.plain(masked, 2)
	r.readyAt(all, sam.NewLUN(2))
	r.readyAt(s, lun1)
	r.function(s, sam.TargetWarmReset, nil, pdu.FunctionComplete)
	for lun, want := range map[uint16]int{1: 0, 2: 0x2902} {
		if got := r.next(all, sam.NewLUN(lun)); got != want {
			t.Errorf("condition %04x at LUN %d, want %04x", got, lun, want)
		}
	}
}

// TestControllerComesAndGoes: the controller at LUN 0 can be taken away and put there while sessions know it, and be given other
// names; a disk there goes before it.
func TestControllerComesAndGoes(t *testing.T) {
	r := newRig(t, Config{}, "")
	s := r.plain(rawName, 1)
	vendor := func() string {
		t.Helper()
		res, err := s.Command(r.ctx(), sam.NewLUN(0), initiator.Inquiry(36), nil, 36)
		if err != nil || res.Status != sam.Good {
			t.Fatal(err, res.Err())
		}
		return strings.TrimSpace(string(res.Data[8:16]))
	}
	for _, step := range []struct {
		change       func(*TargetConfig)
		want, vendor string
	}{
		{func(c *TargetConfig) {}, "0,1 0:controller", "LUNAR"},
		{func(c *TargetConfig) { c.TgtNaming, c.TID = true, 3 }, "0,1 0:controller", "IET"},
		{func(c *TargetConfig) { c.NoController = true }, "1", ""},
		{func(c *TargetConfig) { c.TgtNaming, c.TID = false, 0 }, "1", ""},
		{func(c *TargetConfig) { c.NoController = false }, "0,1 0:controller", "LUNAR"},
	} {
		r.edit(step.change)
		if got, _, _ := strings.Cut(r.listed(s), " 1:"); got != step.want {
			t.Errorf("%s, want %s", got, step.want)
		}
		if step.vendor != "" && vendor() != step.vendor {
			t.Errorf("vendor %q, want %q", vendor(), step.vendor)
		}
	}
	r.disk(0, "zero")
	r.edit(func(c *TargetConfig) { c.NoController = true })
	if got, _, _ := strings.Cut(r.listed(s), " 1:"); got != "0,1 0:zero" {
		t.Errorf("with a disk there: %s", got)
	}
	if err := r.tg.RemoveLUN(r.ctx(), 0, false); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := strings.Cut(r.listed(s), " 1:"); got != "1" {
		t.Errorf("without the disk and the controller: %s", got)
	}
}
