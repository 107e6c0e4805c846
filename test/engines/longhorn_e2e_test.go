//go:build e2e

package engines

import (
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/libiscsi"
	"github.com/lunar-iscsi/lunar/test/longhorn"
)

// A longhornInstance is an engine with two replicas a volume.
type longhornInstance struct {
	by map[string]*longhorn.Engine
}

func longhornEngine() Engine {
	manager := "that is for Longhorn's manager, which knows nodes and disks"
	lacks := map[string]string{"delete": manager, "restore": manager, "flatten": "a clone is a whole copy"}
	return Engine{Name: "longhorn", Libiscsi: libiscsi.Undefined, Lacks: lacks, Start: func(*testing.T) Instance {
		return &longhornInstance{by: map[string]*longhorn.Engine{}}
	}}
}

func (l *longhornInstance) Volume(t *testing.T, size int64) string {
	t.Helper()
	e := longhorn.Start(t, longhorn.Config{Size: size})
	uri := e.URI("")
	l.by[uri] = e
	return uri
}

// Beside makes an engine for the clone, which has never been written.
func (l *longhornInstance) Beside(t *testing.T, uri, _ string) string {
	t.Helper()
	return l.Volume(t, l.by[uri].Size)
}

// Grow has the replicas grow, and starts the engine anew: while its frontend is up it does not count what it has gained.
func (l *longhornInstance) Grow(t *testing.T, uri string, size int64) {
	t.Helper()
	e := l.by[uri]
	e.Must("expand", "--size", strconv.FormatInt(size, 10))
	e.WaitExpanded(size)
	e.KillController()
	e.Size = size
	e.Restart()
}

func (l *longhornInstance) Faults(uri string) []Fault {
	e := l.by[uri]
	pair := []int{0, 1} // the replicas; it is the first that is broken
	replace := func(k int) { pair[k] = e.Rebuild(pair[k]) }
	// anew starts the engine anew. It goes on with the replica that had written most, and has the other rebuilt.
	anew := func() {
		e.Restart()
		for k, i := range pair {
			if e.Mode(i) == "ERR" {
				e.KillReplica(i)
				replace(k)
			}
		}
	}
	return []Fault{
		{Name: "a replica killed", For: 3 * time.Second, Break: func(*testing.T) { e.KillReplica(pair[0]) }, Heal: func(*testing.T) { replace(0) }},
		// The engine gives it up after 8 s; until then whatever it has a part in waits.
		{Name: "a replica frozen", For: 12 * time.Second, Silent: true,
			Break: func(*testing.T) { e.SignalReplica(pair[0], syscall.SIGSTOP) },
			Heal:  func(*testing.T) { e.WaitMode(pair[0], "ERR"); e.KillReplica(pair[0]); replace(0) }},
		{Name: "the controller killed", For: 3 * time.Second, Silent: true,
			Break: func(*testing.T) { e.KillController() }, Heal: func(*testing.T) { anew() }},
		{Name: "the controller silent for 30 s", For: 30 * time.Second, Silent: true,
			Break: func(*testing.T) { e.Signal(syscall.SIGSTOP) },
			Heal: func(t *testing.T) {
				lost := e.Thaw(pair...)
				if len(lost) > 0 {
					t.Logf("it has given up %d of its replicas", len(lost))
				}
				if len(lost) == len(pair) { // as Longhorn does
					e.KillController()
					anew()
					return
				}
				for k, i := range pair {
					if slices.Contains(lost, i) {
						e.KillReplica(i)
						replace(k)
					}
				}
			}},
		// What has no replica left answers each command with an error; they wait all the same.
		{Name: "both replicas killed", For: 3 * time.Second, Silent: true,
			Break: func(*testing.T) { e.KillReplica(pair[0]); e.KillReplica(pair[1]) },
			Heal: func(*testing.T) {
				e.StartReplica(pair[0])
				e.StartReplica(pair[1])
				e.KillController()
				anew()
			}},
	}
}
