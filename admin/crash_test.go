package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/journal"
	"github.com/lunar-iscsi/lunar/admin/journal/journaltest"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

// A call is one call of the service.
type call struct {
	name string
	do   func(ctx context.Context, m *Manager) error
}

// randomCalls is a sequence of n calls of every kind. Some of them are refused for what is there, or is not.
func randomCalls(seed uint64, n int) []call {
	rng := rand.New(rand.NewPCG(seed, 3))
	var out []call
	add := func(name string, do func(ctx context.Context, m *Manager) error) { out = append(out, call{name, do}) }
	for i := range n {
		tid, lun, acc := 1+rng.IntN(3), uint16(1+rng.IntN(2)), fmt.Sprintf("account%d", rng.IntN(3))
		ref, text := Ref{TID: tid}, fmt.Sprintf("text %d", i)
		l := spec.LUN{Number: lun, Volume: "mem:?size=1M", Identity: fmt.Sprintf("disk %d", i)}
		switch rng.IntN(16) {
		case 0, 1, 2:
			t := spec.Target{TID: tid, Name: fmt.Sprintf("%st%d", iqn, tid), Access: everybody(), Alias: text, LUNs: []spec.LUN{l}}
			if rng.IntN(2) == 0 {
				t.Auth.Incoming = []string{acc}
			}
			add("add target", func(ctx context.Context, m *Manager) error { _, err := m.AddTarget(ctx, t); return err })
		case 3:
			add("remove target", func(ctx context.Context, m *Manager) error { return m.RemoveTarget(ctx, ref, false) })
		case 4, 5:
			add("edit target", func(ctx context.Context, m *Manager) error {
				return m.EditTarget(ctx, ref, func(t *spec.Target) error { t.Alias = text; return nil })
			})
		case 6:
			add("bind", func(ctx context.Context, m *Manager) error {
				return m.EditTarget(ctx, ref, func(t *spec.Target) error { t.Alias, t.Auth.Outgoing = text, acc; return nil })
			})
		case 7:
			l.Number = 3 + lun
			add("add LUN", func(ctx context.Context, m *Manager) error { _, err := m.AddLUN(ctx, ref, l, false); return err })
		case 8:
			add("remove LUN", func(ctx context.Context, m *Manager) error { return m.RemoveLUN(ctx, ref, lun, false) })
		case 9:
			add("edit LUN", func(ctx context.Context, m *Manager) error {
				return m.EditLUN(ctx, ref, lun, func(l *spec.LUN) error { l.Offline, l.Serial = !l.Offline, text; return nil })
			})
		case 10, 11:
			add("add account", func(ctx context.Context, m *Manager) error {
				return m.AddAccount(ctx, spec.Account{Name: acc, Secret: "the secret is " + text})
			})
		case 12:
			add("remove account", func(ctx context.Context, m *Manager) error { return m.RemoveAccount(ctx, acc) })
		case 13:
			add("secret", func(ctx context.Context, m *Manager) error { return m.SetSecret(ctx, acc, "now it is "+text) })
		case 14:
			add("system", func(ctx context.Context, m *Manager) error {
				return m.EditSystem(ctx, func(s *spec.System) error { s.NopInterval = i; return nil })
			})
		case 15:
			add("resize", func(ctx context.Context, m *Manager) error {
				_, err := m.ResizeLUN(ctx, ref, lun, int64(1+i)<<20, true)
				return err
			})
		}
	}
	return out
}

// told writes a document down for comparisons.
func told(t *testing.T, d spec.Document) string {
	t.Helper()
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// expected plays calls on a service that saves nowhere, and returns what is set before the first and after each.
func expected(t *testing.T, calls []call) (docs []string, done int) {
	r := newRig(t, nil)
	docs = append(docs, told(t, r.Document()))
	for _, c := range calls {
		if c.do(r.ctx(), r.Manager) == nil {
			done++
		}
		docs = append(docs, told(t, r.Document()))
	}
	return docs, done
}

// onJournal makes a Manager on a folder, and loads what is there.
func onJournal(t *testing.T, fs journal.FS) (*Manager, *journal.Journal, error) {
	j, err := journal.Open(fs, journal.Options{CompactBytes: 3000})
	if err != nil {
		return nil, nil, err
	}
	m, err := New(Config{Registry: testRegistry(), State: j, RetryVolumes: -1})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	return m, j, nil
}

// A random sequence of calls, stopped at every file operation by kill -9 and by a loss of power: what the next start serves is what was
// set before the call under way, or after it, and never a third.
func TestStopAtEveryStep(t *testing.T) {
	for seed := range uint64(4) {
		calls := randomCalls(seed, 60)
		docs, done := expected(t, calls)
		if done < 12 {
			t.Fatalf("seed %d: only %d calls do something", seed, done)
		}
		whole := journaltest.New(seed)
		play := func(fs *journaltest.FS) (at int) {
			m, j, err := onJournal(t, fs)
			if err != nil {
				return 0
			}
			defer m.Close()
			defer j.Close()
			for i, c := range calls {
				if err := c.do(context.Background(), m); errors.Is(err, journaltest.ErrStopped) {
					if got := told(t, m.Document()); CodeOf(err) != SaveFailed || got != docs[i] {
						t.Fatalf("seed %d, call %d (%s) failed with %v, and\n%s\nis set, want\n%s", seed, i, c.name, err, got, docs[i])
					}
					return i
				}
				if got := told(t, m.Document()); got != docs[i+1] {
					t.Fatalf("seed %d, call %d (%s):\n%s\nis set, want\n%s", seed, i, c.name, got, docs[i+1])
				}
			}
			return len(calls)
		}
		play(whole)
		for k := 1; k <= whole.Ops(); k++ {
			fs := journaltest.New(seed + uint64(k)<<32)
			fs.StopAt(k)
			at := play(fs)
			for _, power := range []bool{false, true} {
				m, j, err := onJournal(t, fs.Restart(power))
				if err != nil {
					t.Fatalf("seed %d, stopped at operation %d (power %v): %v", seed, k, power, err)
				}
				got := told(t, m.Document())
				if got != docs[at] && got != docs[min(at+1, len(calls))] {
					t.Fatalf("seed %d, stopped at operation %d (power %v), in call %d:\n%s\nis set, want\n%s\nor\n%s", seed, k, power, at, got, docs[at], docs[min(at+1, len(calls))])
				}
				for i, s := range m.Targets(true) {
					if len(s.Live.LUNs) != len(s.Spec.LUNs)+1 || len(s.Faults) != 0 {
						t.Fatalf("target %d is live with %d LUNs, and %d are set; faults %v", i, len(s.Live.LUNs), len(s.Spec.LUNs), s.Faults)
					}
				}
				if err := errors.Join(m.Close(), j.Close()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// Several at once, each at a target of its own, and the machine stops: of each target what is there is that before or after the call under
// way there, whatever became of the others'.
func TestStopInParallel(t *testing.T) {
	const callers, edits = 4, 12
	for seed := range uint64(60) {
		fs := journaltest.New(seed)
		m, j, err := onJournal(t, fs)
		if err != nil {
			t.Fatal(err)
		}
		for i := range callers {
			if _, err := m.AddTarget(t.Context(), spec.Target{Name: fmt.Sprintf("%st%d", iqn, i+1), Alias: "0"}); err != nil {
				t.Fatal(err)
			}
		}
		fs.StopAt(int(1 + seed))
		var made [callers]int // edits that were answered
		var wg sync.WaitGroup
		for i := range callers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for n := 1; n <= edits; n++ {
					if err := m.EditTarget(t.Context(), Ref{TID: i + 1}, func(t *spec.Target) error { t.Alias = fmt.Sprint(n); return nil }); err != nil {
						return
					}
					made[i] = n
				}
			}()
		}
		wg.Wait()
		for _, power := range []bool{false, true} {
			again, aj, err := onJournal(t, fs.Restart(power))
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range again.Targets(false) {
				if a := s.Spec.Alias; a != fmt.Sprint(made[i]) && a != fmt.Sprint(made[i]+1) {
					t.Errorf("seed %d (power %v): target %d has edit %s, and %d had been answered", seed, power, i, a, made[i])
				}
			}
			if err := errors.Join(again.Close(), aj.Close()); err != nil {
				t.Error(err)
			}
		}
		if err := errors.Join(m.Close(), j.Close()); err != nil {
			t.Error(err)
		}
	}
}

// killDir makes a test process the victim of TestKill: it has the folder to work in, and the seed.
const (
	killDir  = "LUNAR_TEST_KILL_DIR"
	killSeed = 77
	kills    = 15
)

// TestKillVictim is the process that TestKill kills: it makes the calls one by one, from the one on that standard input names, and says when
// each has been answered.
func TestKillVictim(t *testing.T) {
	dir := os.Getenv(killDir)
	if dir == "" {
		return // an ordinary run of the tests
	}
	var from int
	if _, err := fmt.Scan(&from); err != nil {
		t.Fatal(err)
	}
	fs, err := journal.Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := onJournal(t, fs)
	if err != nil {
		t.Fatal(err)
	}
	calls := randomCalls(killSeed, 4000)
	for i := from; i < len(calls); i++ {
		_ = calls[i].do(context.Background(), m) // refused ones change nothing: the comparison says
		fmt.Printf("answered %d\n", i)
	}
}

// A process that is killed with -9 in the midst of random calls, on the machine's own files, again and again: each start finds what was set
// before the call under way, or after it, and goes on from there.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(killSeed, 4))
	calls := randomCalls(killSeed, 4000)
	r := newRig(t, nil) // plays along
	before := told(t, r.Document())
	next := 0
	for round := range kills {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKillVictim$")
		cmd.Env = append(os.Environ(), killDir+"="+dir)
		cmd.Stdin = strings.NewReader(fmt.Sprintln(next))
		out, err := cmd.StdoutPipe()
		r.ok(err)
		r.ok(cmd.Start())
		lines := bufio.NewScanner(out)
		last, most := next-1, next+1+rng.IntN(60)
		for last < most && lines.Scan() {
			if _, err := fmt.Sscanf(lines.Text(), "answered %d", &last); err != nil {
				t.Fatalf("the victim says %q", lines.Text())
			}
		}
		r.ok(cmd.Process.Kill())
		for lines.Scan() { // what it had answered before it was killed
			if _, err := fmt.Sscanf(lines.Text(), "answered %d", &last); err != nil {
				t.Fatalf("the victim says %q", lines.Text())
			}
		}
		_ = cmd.Wait() // killed
		for ; next <= last; next++ {
			_ = calls[next].do(r.ctx(), r.Manager)
			before = told(t, r.Document())
		}
		fs, err := journal.Dir(dir)
		r.ok(err)
		m, j, err := onJournal(t, fs)
		if err != nil {
			t.Fatalf("after kill %d: %v", round, err)
		}
		got := told(t, m.Document())
		r.ok(errors.Join(m.Close(), j.Close()))
		if got == before {
			continue
		}
		if next < len(calls) {
			_ = calls[next].do(r.ctx(), r.Manager)
			before = told(t, r.Document())
			next++
		}
		if got != before {
			t.Fatalf("after kill %d, in call %d:\n%s\nis set, want what was before it, or\n%s", round, next-1, got, before)
		}
	}
	if next < kills {
		t.Errorf("only %d calls were made", next)
	}
}
