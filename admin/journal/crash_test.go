package journal_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/journal"
	"github.com/lunar-iscsi/lunar/admin/journal/journaltest"
)

// model is what a journal has to have.
type model map[string]string

func (m model) with(set map[string][]byte) model {
	n := maps.Clone(m)
	for k, v := range set {
		if v == nil {
			delete(n, k)
		} else {
			n[k] = string(v)
		}
	}
	return n
}

func modelOf(j *journal.Journal) model {
	m := model{}
	for k, v := range j.Objects() {
		m[k] = string(v)
	}
	return m
}

// someChange is a random change, now and then a long one.
func someChange(rng *rand.Rand) map[string][]byte {
	set := map[string][]byte{}
	for range 1 + rng.IntN(3) {
		k := fmt.Sprintf("target/%d", rng.IntN(6))
		if rng.IntN(3) == 0 {
			set[k] = nil
			continue
		}
		pad := make([]byte, rng.IntN(40))
		if rng.IntN(4) == 0 {
			pad = make([]byte, rng.IntN(1500))
		}
		for i := range pad {
			pad[i] = 'a' + byte(rng.IntN(26))
		}
		set[k] = fmt.Appendf(nil, `{"n":%d,"pad":"%s"}`, rng.IntN(1000), pad)
	}
	return set
}

const changes = 12

// play makes random changes until all are made or the machine stops. It returns what must be there by then, and what may be instead.
func play(t *testing.T, fs *journaltest.FS, seed uint64) (must, may model) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 2))
	must = model{}
	j, err := journal.Open(fs, journal.Options{CompactBytes: 2000})
	if err != nil {
		if !errors.Is(err, journaltest.ErrStopped) {
			t.Fatal(err)
		}
		return must, must
	}
	for range changes {
		set := someChange(rng)
		may = must.with(set)
		if err := j.Save(set); err == nil {
			must = may
		} else if !errors.Is(err, journaltest.ErrStopped) {
			t.Fatal(err)
		} else {
			return must, may
		}
	}
	return must, must
}

// Stopped at every operation, by kill -9 and by a loss of power: what the next start finds is what was there before the change under
// way, or after it.
func TestStopEverywhere(t *testing.T) {
	for seed := range uint64(20) {
		whole := journaltest.New(seed)
		play(t, whole, seed)
		ops := whole.Ops()
		if ops < 2*changes {
			t.Fatalf("only %d operations", ops)
		}
		for _, power := range []bool{false, true} {
			for at := 1; at <= ops; at++ {
				fs := journaltest.New(seed + uint64(at)<<32)
				fs.StopAt(at)
				must, may := play(t, fs, seed)
				if !fs.Stopped() {
					t.Fatalf("operation %d of %d was not reached", at, ops)
				}
				for try := range 3 {
					after := fs.Restart(power)
					j, err := journal.Open(after, journal.Options{})
					if err != nil {
						t.Fatalf("seed %d, stopped at operation %d (power %v, try %d): %v", seed, at, power, try, err)
					}
					got := modelOf(j)
					if !maps.Equal(got, must) && !maps.Equal(got, may) {
						t.Fatalf("seed %d, stopped at operation %d (power %v, try %d):\n%v is there, want\n%v, or\n%v", seed, at, power, try, got, must, may)
					}
					// It can go on from there.
					set := map[string][]byte{"after": []byte(`1`)}
					if err := j.Save(set); err != nil {
						t.Fatal(err)
					}
					j.Close()
					if again, err := journal.Open(after, journal.Options{}); err != nil || !maps.Equal(modelOf(again), got.with(set)) {
						t.Fatalf("seed %d, stopped at operation %d: after one more change: %v", seed, at, err)
					}
				}
			}
		}
	}
}

// Each operation fails once: the change that it was part of is made or not as its answer says, the others are made, and a start
// after it, whatever kind of stop there was before, finds that.
func TestFailEverywhere(t *testing.T) {
	fault := errors.New("injected")
	for seed := range uint64(20) {
		whole := journaltest.New(seed)
		play(t, whole, seed)
		for at := 1; at <= whole.Ops(); at++ {
			for also := range 4 { // and some of those that follow, such as what would repair it
				fs := journaltest.New(seed + uint64(at)<<32)
				for k := range also + 1 {
					fs.FailAt(at+k, fault)
				}
				rng := rand.New(rand.NewPCG(seed, 2))
				j, err := journal.Open(fs, journal.Options{CompactBytes: 2000})
				if err != nil {
					if !errors.Is(err, fault) {
						t.Fatal(err)
					}
					continue
				}
				must, maybe := model{}, []model(nil)
				for n := range changes {
					set := someChange(rng)
					next := must.with(set)
					switch err := j.Save(set); {
					case err == nil:
						must, maybe = next, nil
					case !errors.Is(err, fault):
						t.Fatal(err)
					case !strings.Contains(err.Error(), "may find") && !strings.Contains(err.Error(), "refused until"):
						found(t, fs, must, must) // what failed has been undone
					default:
						maybe = append(maybe, next)
						found(t, fs, append(maybe, must)...)
					}
					if !maps.Equal(modelOf(j), must) {
						t.Fatalf("seed %d, operation %d and %d more fail: after change %d it keeps %v, want %v", seed, at, also, n, modelOf(j), must)
					}
				}
				// Once nothing fails any more, changes are taken again.
				fs.Heal()
				if err := j.Save(map[string][]byte{"end": []byte("1")}); err != nil {
					t.Fatalf("seed %d, operation %d and %d more fail: %v", seed, at, also, err)
				}
				must = must.with(map[string][]byte{"end": []byte("1")})
				for _, power := range []bool{false, true} {
					found(t, fs.Restart(power), must)
				}
			}
		}
	}
}

// found looks at what a start after a loss of power finds, which must be one of some.
func found(t *testing.T, fs *journaltest.FS, some ...model) {
	t.Helper()
	j, err := journal.Open(fs.Restart(true), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range some {
		if maps.Equal(modelOf(j), m) {
			return
		}
	}
	t.Fatalf("%v is there, want one of %v", modelOf(j), some)
}
