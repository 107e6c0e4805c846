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
				if len(nx.early) != 0 || nx.pending != 0 || nx.held != 0 || len(lu.stirred) != 0 {
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
