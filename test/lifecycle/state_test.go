package lifecycle

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/journal"
	"github.com/lunar-iscsi/lunar/test/daemon"
)

// An administered daemon is one with a way in for administrators, and state that is kept.
type administered struct {
	*daemon.Daemon
	targets api.TargetServiceClient
	close   func()
}

// administer starts lunard on a state folder, with nothing else to serve.
func administer(t *testing.T, state string) *administered {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	d := daemon.Start(t, "--state-dir="+state, "--listen-admin=unix:"+socket)
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		t.Fatal(err)
	}
	a := &administered{Daemon: d, targets: api.NewTargetServiceClient(conn), close: func() { _ = conn.Close() }}
	t.Cleanup(a.close)
	return a
}

func alias(ctx context.Context, c api.TargetServiceClient, name string) (int, error) {
	r, err := c.GetTarget(ctx, &api.GetTargetRequest{Target: &api.TargetRef{Target: &api.TargetRef_Name{Name: name}}})
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(r.GetTarget().GetSpec().GetAlias())
}

func setAlias(ctx context.Context, c api.TargetServiceClient, name string, n int) error {
	_, err := c.UpdateTarget(ctx, &api.UpdateTargetRequest{Target: &api.TargetRef{Target: &api.TargetRef_Name{Name: name}},
		To: &api.Target{Alias: strconv.Itoa(n)}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"alias"}}})
	return err
}

// lunard is killed with -9 while several administrators change targets, again and again: whatever was answered is there at the next start, and of what was
// under way all or nothing.
func TestStateSurvivesKill(t *testing.T) {
	const admins, rounds = 3, 8
	state := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 1))
	var answered [admins]int // the last change of each that was
	name := func(i int) string { return fmt.Sprintf("%s%s%d", daemon.Prefix, disk, i) }
	for round := range rounds {
		a := administer(t, state)
		ctx, cancel := context.WithTimeout(t.Context(), answerLimit)
		for i := range admins {
			if round == 0 {
				if _, err := a.targets.AddTarget(ctx, &api.AddTargetRequest{Target: &api.Target{Name: name(i), Alias: "0", Luns: []*api.Lun{{Number: 1, Volume: "mem:?size=1M"}}}}); err != nil {
					t.Fatal(err)
				}
				continue
			}
			switch got, err := alias(ctx, a.targets, name(i)); {
			case err != nil:
				t.Fatalf("round %d, target %d: %v", round, i, err)
			case got != answered[i] && got != answered[i]+1:
				t.Fatalf("round %d, target %d has change %d, and %d had been answered", round, i, got, answered[i])
			default:
				answered[i] = got
			}
		}
		enough := make(chan struct{}, 1000)
		var wg sync.WaitGroup
		for i := range admins {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for setAlias(ctx, a.targets, name(i), answered[i]+1) == nil {
					answered[i]++
					enough <- struct{}{}
				}
			}()
		}
		for range 5 + rng.IntN(60) {
			select {
			case <-enough:
			case <-ctx.Done():
				t.Fatal("no change was answered in time")
			}
		}
		a.Kill(t)
		wg.Wait()
		a.close()
		cancel()
	}
	for i, n := range answered {
		if n < rounds {
			t.Errorf("target %d was changed only %d times", i, n)
		}
	}
}

// A state folder is one daemon's, a damaged state is refused in one line that says how to go on, and the ways out are ways out.
func TestStateRefused(t *testing.T) {
	state := t.TempDir()
	a := administer(t, state)
	ctx, cancel := context.WithTimeout(t.Context(), answerLimit)
	defer cancel()
	if _, err := a.targets.AddTarget(ctx, &api.AddTargetRequest{Target: &api.Target{Name: daemon.Prefix + disk, Alias: "1"}}); err != nil {
		t.Fatal(err)
	}
	if err := setAlias(ctx, a.targets, daemon.Prefix+disk, 2); err != nil {
		t.Fatal(err)
	}
	refused := func(args []string, says ...string) {
		t.Helper()
		r := daemon.Run(t, append([]string{"--portal=" + daemon.FreeAddr(t), "--listen-admin=none", "--state-dir=" + state}, args...)...)
		if r.Code != failed {
			t.Errorf("exit status %d: %s", r.Code, r.Stderr)
		}
		if line, rest, _ := strings.Cut(r.Stderr, "\n"); line == "" || rest != "" {
			t.Errorf("standard error is not one line: %q", r.Stderr)
		}
		for _, want := range says {
			if !strings.Contains(r.Stderr, want) {
				t.Errorf("%q does not say %q", r.Stderr, want)
			}
		}
	}
	refused(nil, state, "another lunard", strconv.Itoa(a.PID()))
	a.Stop(t)

	path := filepath.Join(state, journal.Name)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-2] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(nil, path, "damaged", "--recover-state=salvage", "--recover-state=discard")
	refused([]string{"--export=" + daemon.Prefix + "x=mem:?size=1M"}, "damaged")
	if now, err := os.ReadFile(path); err != nil || string(now) != string(raw) {
		t.Error("a start that is refused has changed the file", err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	d := daemon.Start(t, "--state-dir="+state, "--listen-admin=unix:"+socket, "--recover-state=salvage")
	d.WaitLog(t, 0, "the saved state was damaged")
	d.Stop(t)
	again := administer(t, state)
	if n, err := alias(ctx, again.targets, daemon.Prefix+disk); err != nil || n != 1 {
		t.Errorf("salvaged is %d, %v; want what was ahead of the damage", n, err)
	}
	if kept, err := filepath.Glob(path + ".damaged-*"); err != nil || len(kept) != 1 {
		t.Errorf("the damaged file: %v, %v", kept, err)
	}
}
