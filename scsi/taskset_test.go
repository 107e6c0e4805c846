package scsi

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// with returns c with a task attribute.
func with(a sam.TaskAttribute, c *Command) *Command {
	c.Attr = a
	return c
}

// TestTaskAttributes: who waits for whom (SAM-5 §8), step by step.
func TestTaskAttributes(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	b := r.attach("iqn.2024-01.example:b")
	r.st.hold = true
	end := func(c *Command) {
		t.Helper()
		for i, q := range r.st.held {
			if q.Owner == c {
				r.st.end(i)
				r.host.turn()
				return
			}
		}
		t.Fatalf("%s is not at the store", cdb.Describe(c.CDB))
	}
	states := func(want cmdState, list ...*Command) {
		t.Helper()
		for i, c := range list {
			if c.state != want {
				t.Fatalf("command %d is in state %d, want %d", i, c.state, want)
			}
		}
	}
	s1 := r.started(r.write(r.nx, 0, 1, 'a'), atStore)
	s2 := r.started(r.write(b, 8, 1, 'b'), atStore)
	o := r.started(with(sam.Ordered, r.read(b, 16, 1)), dormant)
	s3 := r.started(r.read(r.nx, 24, 1), dormant)
	o2 := r.started(with(sam.Ordered, r.read(r.nx, 32, 1)), dormant)
	s4 := r.started(r.read(b, 40, 1), dormant)
	tur := r.started(&Command{Nexus: r.nx, CDB: []byte{cdb.TestUnitReady, 0, 0, 0, 0, 0}}, dormant)

	// HEAD OF QUEUE goes ahead of all of them, also of those that could go on once s1 and s2 are over.
	h := r.started(with(sam.HeadOfQueue, r.read(b, 48, 1)), atStore)
	noWait := r.read(r.nx, 56, 1)
	if noWait.NoWait = true; r.start(noWait) != WouldBlock || noWait.state != idle {
		t.Fatal("a READ that may not wait went ahead of an ORDERED command")
	}
	end(s1)
	end(s2)
	states(dormant, o, s3, o2, s4, tur)
	end(h)
	states(atStore, o)
	states(dormant, s3, o2, s4, tur)
	end(o)
	states(atStore, s3)
	states(dormant, o2, s4, tur)

	// One that is aborted keeps nobody waiting, dormant or enabled.
	if !r.lu.Abort(o2) {
		t.Fatal("a dormant command is aborted at once")
	}
	r.host.turn()
	states(atStore, s3, s4)
	if tur.state != idle || tur.Status != sam.Good || !slices.Contains(r.host.ended, tur) {
		t.Fatal("TEST UNIT READY did not end")
	}
	o3 := r.started(with(sam.Ordered, r.read(b, 64, 1)), dormant)
	end(s3)
	r.lu.Abort(s4)
	r.host.turn()
	states(atStore, o3)
	end(o3)
	end(s4)
	if r.lu.set.gate|r.lu.set.heads|r.lu.set.ordered|r.lu.set.parked|r.lu.set.held != 0 || len(r.lu.pending) != 0 {
		t.Fatalf("left over: %+v", r.lu.set)
	}
}

// TestOrderedBehindDoubt: ORDERED does not wait for an aborted write that the store still has, unless their blocks overlap.
func TestOrderedBehindDoubt(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	r.st.hold = true
	late := r.started(r.write(r.nx, 0, 8, 'l'), atStore)
	apart := r.started(with(sam.Ordered, r.read(r.nx, 8, 8)), dormant)
	touching := r.started(with(sam.Ordered, r.read(r.nx, 7, 1)), dormant)
	r.lu.Abort(late)
	r.host.turn()
	if apart.state != atStore {
		t.Fatal("an ORDERED command waits for a write in doubt elsewhere")
	}
	r.st.end(1)
	if r.host.turn(); touching.state != waiting {
		t.Fatal("an ORDERED command went ahead of a write in doubt to the same block")
	}
	r.st.end(0)
	r.host.turn()
	if r.st.end(0); len(r.host.turn()) != 1 || touching.Buf[0] != 'l' {
		t.Fatal("it does not see the late write")
	}
}

// TestAttributeRefused: the ACA attribute and what is reserved.
func TestAttributeRefused(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	for a := sam.ACA; a < 8; a++ {
		for _, c := range []*Command{r.read(r.nx, 0, 1), {Nexus: r.nx, CDB: []byte{cdb.Inquiry, 0, 0, 0, 36, 0}}} {
			r.start(with(a, c))
			r.want(c, "05/49/00")
		}
	}
	for a := sam.Untagged; a <= sam.HeadOfQueue; a++ {
		c := with(a, r.read(r.nx, 0, 1))
		r.start(c)
		r.want(c, "good")
	}
}

// TestOrderBeforeData: commands of one nexus keep their order though the data of the first comes last; another nexus waits
// for nobody's data.
func TestOrderBeforeData(t *testing.T) {
	r := newRig(t, newTestStore(t, 1<<20), DiskConfig{})
	b := r.attach("iqn.2024-01.example:b")
	await := func(c *Command) *Command {
		t.Helper()
		if !r.lu.Prepare(c) {
			t.Fatal(result(c))
		}
		r.lu.Await(c)
		return c
	}
	first := await(r.write(r.nx, 0, 8, '1'))
	second := r.started(r.write(r.nx, 7, 2, '2'), held)
	third := r.started(r.read(r.nx, 8, 1), held)
	apart, other := r.write(r.nx, 64, 1, '3'), r.write(b, 0, 9, 'b')
	for _, c := range []*Command{apart, other} {
		if r.start(c) != Done {
			t.Fatal("it waits for data that does not matter to it")
		}
	}
	ordered := r.started(with(sam.Ordered, r.read(r.nx, 200, 1)), held)
	if head := with(sam.HeadOfQueue, r.read(r.nx, 0, 1)); r.start(head) != Done || head.Data[0] != 'b' {
		t.Fatal("HEAD OF QUEUE waits for data")
	}
	first.Buf = first.Owner.([]byte)
	if r.lu.Execute(first) != Done {
		t.Fatal("the first does not go on when its data is there")
	}
	if got := r.host.turn(); !slices.Equal(got, []*Command{second, third, ordered}) || third.Data[0] != '2' {
		t.Fatalf("%d ended", len(got))
	}
	if c := r.read(r.nx, 0, 9); r.start(c) != Done || c.Data[6*512] != '1' || c.Data[7*512] != '2' {
		t.Fatal("what was written last is not there")
	}
	// A command that goes away before its data is there holds nobody up, nor does one that waits behind it.
	first = await(r.write(r.nx, 0, 8, '1'))
	second, third = r.started(r.write(r.nx, 0, 1, '2'), held), r.started(r.read(r.nx, 0, 1), held)
	if !r.lu.Abort(second) || !r.lu.Abort(first) {
		t.Fatal("not aborted at once")
	}
	if got := r.host.turn(); !slices.Equal(got, []*Command{third}) || third.Data[0] != '1' || len(r.nx.early) != 0 {
		t.Fatal("a command waits for one that is gone")
	}
}

// watchStore tells of every request.
type watchStore struct {
	*testStore
	watch func(*backstore.Request)
}

func (s *watchStore) Submit(r *backstore.Request) backstore.Outcome {
	s.watch(r)
	return s.testStore.Submit(r)
}

func (s *watchStore) Close(context.Context) error { return nil }

// A setModel is SAM-5 §8 in plain words, over all commands that have come and not ended.
type setModel struct {
	*rig
	rnd   *rand.Rand
	nexus []*NexusLU
	tasks []*setTask // by arrival
	clock int
	seen  map[string]int
}

type setTask struct {
	c       *Command
	came    int // at the LU
	ready   bool
	entered int // into the task set; 0: not yet
	enabled bool
	over    bool
}

// settle applies the rules until nothing changes.
func (m *setModel) settle() {
	for again := true; again; {
		again = false
		for _, x := range m.tasks {
			if x.over || x.enabled {
				continue
			}
			if x.entered == 0 && x.ready && !m.blockedByOwn(x) {
				m.clock++
				x.entered, again = m.clock, true
			}
		}
		order := slices.Clone(m.tasks)
		slices.SortStableFunc(order, func(a, b *setTask) int { return a.entered - b.entered })
		for _, x := range order {
			if x.entered != 0 && !x.enabled && !x.over && !m.blockedInSet(x) {
				x.enabled, again = true, true
			}
		}
	}
}

func overlapping(a, b *Command) bool {
	return (a.CDB[0] == cdb.Write10 || b.CDB[0] == cdb.Write10) && a.lba < b.lba+uint64(b.blocks) && b.lba < a.lba+uint64(a.blocks)
}

func (m *setModel) blockedByOwn(x *setTask) bool {
	for _, o := range m.tasks {
		if o.over || o.entered != 0 || o.c.Nexus != x.c.Nexus || o.came >= x.came || x.c.Attr == sam.HeadOfQueue {
			continue
		}
		if x.c.Attr == sam.Ordered || o.c.Attr == sam.Ordered || o.c.Attr == sam.HeadOfQueue || overlapping(o.c, x.c) {
			return true
		}
	}
	return false
}

func (m *setModel) blockedInSet(x *setTask) bool {
	for _, o := range m.tasks {
		if o == x || o.over || o.entered == 0 || x.c.Attr == sam.HeadOfQueue {
			continue
		}
		if o.c.Attr == sam.HeadOfQueue || o.entered < x.entered && (x.c.Attr == sam.Ordered || o.c.Attr == sam.Ordered) {
			return true
		}
	}
	return false
}

func (m *setModel) of(c *Command) *setTask {
	for _, x := range m.tasks {
		if x.c == c {
			return x
		}
	}
	m.Fatalf("%s is not there", cdb.Describe(c.CDB))
	return nil
}

// submitted checks a request at the store: its command may run, and no older one of its nexus that it must not overtake is left.
func (m *setModel) submitted(r *backstore.Request) {
	x := m.of(r.Owner.(*Command))
	if !x.enabled {
		m.Fatalf("%v of nexus %d at the store ahead of what it has to wait for", x.c.Attr, m.number(x.c))
	}
	for _, o := range m.tasks {
		if !o.over && o.came < x.came && o.c.Nexus == x.c.Nexus && o.c.Attr != sam.HeadOfQueue && x.c.Attr != sam.HeadOfQueue && overlapping(o.c, x.c) {
			m.Fatalf("two of nexus %d that overlap are at the store in the wrong order, or at once", m.number(x.c))
		}
	}
}

func (m *setModel) number(c *Command) int { return slices.Index(m.nexus, c.Nexus) }

func (m *setModel) ended(c *Command) {
	x := m.of(c)
	if c.Status != sam.Good && !x.over {
		m.Fatalf("ended %s", result(c))
	}
	m.over(x)
}

func (m *setModel) over(x *setTask) {
	x.over = true
	m.tasks = slices.DeleteFunc(m.tasks, func(o *setTask) bool { return o == x && x.c.state != inDoubt })
	m.settle()
}

func (m *setModel) execute(x *setTask) {
	waited := x.c.state == awaiting
	defer func() {
		if waited {
			m.host.turn()
		}
	}()
	x.ready = true
	if m.settle(); m.rnd.IntN(2) == 0 {
		x.c.NoWait = true
		if m.lu.Execute(x.c) == Done {
			m.ended(x.c)
			return
		}
		x.c.NoWait = false
		if x.c.state > awaiting {
			m.Fatalf("state %d though it may not wait", x.c.state)
		}
	}
	switch m.lu.Execute(x.c) {
	case Done:
		m.ended(x.c)
	case WouldBlock:
		m.Fatal("would block")
	}
}

func (m *setModel) step() {
	switch k := m.rnd.IntN(20); {
	case k < 8:
		nx := m.nexus[m.rnd.IntN(len(m.nexus))]
		lba, blocks := m.rnd.Uint64N(24), 1+m.rnd.Uint32N(4)
		c := m.read(nx, lba, blocks)
		if m.rnd.IntN(2) == 0 {
			c = m.write(nx, lba, blocks, 1)
		}
		if m.rnd.IntN(3) == 0 {
			c.Attr = sam.TaskAttribute(m.rnd.IntN(4))
		}
		if !m.lu.Prepare(c) {
			m.Fatal(result(c))
		}
		if c.Buf = make([]byte, c.In); c.Out > 0 {
			c.Buf = c.Owner.([]byte)
		}
		m.clock++
		x := &setTask{c: c, came: m.clock}
		m.tasks = append(m.tasks, x)
		m.seen[c.Attr.String()]++
		if m.rnd.IntN(3) == 0 {
			m.lu.Await(c)
			m.settle()
			return
		}
		m.execute(x)
	case k < 10:
		for _, i := range m.rnd.Perm(len(m.tasks)) {
			if x := m.tasks[i]; !x.ready && !x.over {
				m.execute(x)
				return
			}
		}
	case k < 15:
		if n := len(m.st.held); n > 0 {
			m.st.end(m.rnd.IntN(n))
		}
	case k < 16 && len(m.tasks) > 0: // ABORT TASK
		m.abort(m.tasks[m.rnd.IntN(len(m.tasks))])
	case k < 17 && m.rnd.IntN(8) == 0: // LOGICAL UNIT RESET, or CLEAR TASK SET
		for _, x := range slices.Clone(m.tasks) {
			m.abort(x)
		}
		m.seen["reset"]++
	default:
		m.host.turn()
		m.compare()
	}
	m.st.hold = m.rnd.IntN(4) > 0
}

func (m *setModel) abort(x *setTask) {
	if x.over {
		return
	}
	m.seen[fmt.Sprint("abort in state ", x.c.state)]++
	x.over = true
	if m.lu.Abort(x.c); x.c.state == inDoubt && x.c.In != 0 {
		m.st.dead[&x.c.req] = true
	}
	m.over(x)
	m.host.turn() // before anything else comes: when what was held back enters the set is then certain
}

// compare holds the LU's states against the model's, once nothing is on its way.
func (m *setModel) compare() {
	for _, x := range m.tasks {
		if x.over {
			continue
		}
		want := "enabled"
		switch {
		case !x.ready:
			want = "awaiting"
		case x.entered == 0:
			want = "held"
		case !x.enabled:
			want = "dormant"
		}
		got := map[cmdState]string{awaiting: "awaiting", held: "held", dormant: "dormant"}[x.c.state]
		if got == "" {
			got = "enabled"
		}
		if m.seen[want]++; got != want {
			m.Fatalf("%v of nexus %d is %s, want %s", x.c.Attr, m.number(x.c), got, want)
		}
	}
}

// TestTaskSetModel: commands of three nexuses with random attributes, aborts and resets in between, against a plain model.
func TestTaskSetModel(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := &setModel{rnd: rand.New(rand.NewPCG(seed, 8)), seen: seen}
			st := &watchStore{testStore: newTestStore(t, 64<<10), watch: m.submitted}
			st.info.MaxInFlight = 2 + int(seed%5)*2
			host := &testHost{onDone: m.ended}
			lu, err := NewDisk(st, host, DiskConfig{})
			if err != nil {
				t.Fatal(err)
			}
			host.lu = lu
			m.rig = &rig{TB: t, st: st.testStore, host: host, lu: lu}
			for i := range 3 {
				m.nexus = append(m.nexus, m.attach(fmt.Sprint("iqn.2024-01.example:", i)))
			}
			for range 600 {
				m.step()
			}
			// Nothing waits for ever: with all data there and a store that ends what it has, all of them end.
			for _, x := range slices.Clone(m.tasks) {
				if !x.ready && !x.over {
					m.execute(x)
				}
			}
			for m.host.turn(); len(m.st.held) > 0; m.host.turn() {
				m.st.end(m.rnd.IntN(len(m.st.held)))
			}
			if s := m.lu.set; len(m.tasks) != 0 || len(m.lu.pending) != 0 || s.gate|s.heads|s.ordered|s.parked|s.held != 0 || m.lu.index.n != 0 {
				t.Fatalf("at the end: %d commands, %d pending, %+v", len(m.tasks), len(m.lu.pending), s)
			}
			for i, nx := range m.nexus {
				if len(nx.early) != 0 || nx.pending != 0 {
					t.Fatalf("nexus %d: %d early, %d pending", i, len(nx.early), nx.pending)
				}
			}
		})
	}
	for _, what := range []string{"simple", "ordered", "head-of-queue", "held", "dormant", "awaiting", "enabled", "reset", fmt.Sprint("abort in state ", held), fmt.Sprint("abort in state ", dormant)} {
		if seen[what] < 20 {
			t.Errorf("%s: %d times", what, seen[what])
		}
	}
}
