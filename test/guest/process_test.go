package guest

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asOwner makes this test binary play the one that owns a guest's processes and dies; see TestMain.
const asOwner = "LUNAR_TEST_GUARD"

func TestMain(m *testing.M) {
	if os.Getenv(asOwner) != "" {
		owner()
	}
	os.Exit(m.Run())
}

// owner starts a group of processes, the first of which ends and leaves a helper, and says its number.
func owner() {
	c := exec.Command("sh", "-c", "sleep 1000 & echo up")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err == nil {
		_, err = bufio.NewReader(out).ReadString('\n')
	}
	if err == nil {
		_, err = newGuard(c.Process.Pid)
	}
	if err != nil {
		os.Exit(3)
	}
	_, _ = os.Stdout.WriteString(strconv.Itoa(c.Process.Pid) + "\n")
	select {}
}

// Processes of a guest do not outlive a test binary that is killed.
func TestGuard(t *testing.T) {
	t.Parallel()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), asOwner+"=1")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	pgid, numberErr := strconv.Atoi(strings.TrimSpace(line))
	_ = c.Process.Kill()
	_, _ = io.Copy(io.Discard, out)
	_ = c.Wait()
	if err != nil || numberErr != nil {
		t.Fatalf("the owner said %q: %v", line, err)
	}
	poll := time.NewTicker(endPoll)
	defer poll.Stop()
	deadline := time.After(stopTimeout)
	for len(members(t, pgid)) > 0 {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("of group %d there are still %v", pgid, members(t, pgid))
		}
	}
}

// members are the processes of a group that still run: one that has ended but that nobody waits for does not count.
func members(t *testing.T, pgid int) (pids []string) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		// The name, in brackets, may hold anything; state, parent and group follow it.
		_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')'):]), " ")
		if f := strings.Fields(rest); len(f) > 2 && f[2] == strconv.Itoa(pgid) && f[0] != "Z" {
			pids = append(pids, string(b[:strings.IndexByte(string(b), ' ')]))
		}
	}
	return pids
}

// A guest's memory is in shared memory only where it fits.
func TestMemoryFits(t *testing.T) {
	t.Parallel()
	env := []string{"TMPDIR=/elsewhere", "TEMP=/elsewhere", "LC_ALL=C"}
	const enormous = 1 << 40 // MiB: no machine has it
	for _, c := range []struct {
		shm  string
		mib  int
		want []string
	}{
		{"/dev/shm", 1, []string{"LC_ALL=C"}},
		{"/dev/shm", enormous, []string{"LC_ALL=C", "TMPDIR=/d"}},
		{"/nonexistent", 1, []string{"LC_ALL=C", "TMPDIR=/d"}},
	} {
		if got := memoryIn(slices.Clone(env), c.shm, "/d", c.mib); !slices.Equal(got, c.want) {
			t.Errorf("%d MiB, %s: %v, want %v", c.mib, c.shm, got, c.want)
		}
	}
}
