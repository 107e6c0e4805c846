//go:build e2e

package engines

import (
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
	bad := 0 // the replica that is to be replaced
	replace := func(*testing.T) { bad = e.Rebuild(bad) }
	return []Fault{
		{Name: "a replica killed", For: 3 * time.Second, Break: func(*testing.T) { e.KillReplica(bad) }, Heal: replace},
		// The engine gives it up after 8 s; until then whatever it has a part in waits.
		{Name: "a replica frozen", For: 12 * time.Second, Silent: true,
			Break: func(*testing.T) { e.SignalReplica(bad, syscall.SIGSTOP) },
			Heal:  func(t *testing.T) { e.WaitMode(bad, "ERR"); e.KillReplica(bad); replace(t) }},
		{Name: "the controller killed", For: 3 * time.Second, Silent: true,
			Break: func(*testing.T) { e.KillController() }, Heal: func(*testing.T) { e.Restart() }},
		{Name: "the controller silent for 30 s", For: 30 * time.Second, Silent: true,
			Break: func(*testing.T) { e.Signal(syscall.SIGSTOP) }, Heal: func(*testing.T) { e.Signal(syscall.SIGCONT) }},
		// What has no replica left answers each command with an error; they wait all the same.
		{Name: "both replicas killed", For: 3 * time.Second, Silent: true,
			Break: func(*testing.T) { e.KillReplica(bad); e.KillReplica(1) },
			Heal: func(*testing.T) {
				e.StartReplica(bad)
				e.StartReplica(1)
				e.KillController()
				e.Restart()
			}},
	}
}
