package engines

import (
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/test/daemon"
)

// An Engine is what volumes live in.
type Engine struct {
	Name string
	// Start starts the engine; it ends with the test.
	Start func(t *testing.T) Instance
	// Lunard starts a lunard that has the driver, with its portal at addr; nil: daemon.StartAt.
	Lunard func(t testing.TB, addr string, args ...string) *daemon.Daemon
	// Libiscsi are expectations of iscsi-test-cu that take the place of those for a file (test/libiscsi), with the engine's limit as the reason.
	Libiscsi string
	// MinSize is the least size of a volume, in bytes.
	MinSize int64
	// Fixed says why volumes do not grow while they are in use; empty: they do.
	Fixed string
	// Lacks says of what the driver cannot do with volumes (the words of lunarctl store list) why that is so.
	Lacks map[string]string
}

// noSnapshots is what an engine lacks whose volumes are only opened.
func noSnapshots(why string) map[string]string {
	lacks := map[string]string{}
	for _, w := range abilities {
		lacks[w] = why
	}
	return lacks
}

// An Instance is a running engine.
type Instance interface {
	// Volume makes a volume of size bytes that reads as zeroes and returns the URI that names it.
	Volume(t *testing.T, size int64) (uri string)
}

// A Grower is an instance whose volumes grow on the engine's side. Those of others grow by lunarctl alone.
type Grower interface {
	Grow(t *testing.T, uri string, size int64)
}

// A Breaker is an instance that can be broken.
type Breaker interface {
	// Faults lists what may happen to the engine while the volume is in use.
	Faults(uri string) []Fault
}

// A Fault is something that happens to an engine, and how it ends.
type Fault struct {
	Name  string
	Break func(t *testing.T)
	Heal  func(t *testing.T)
	// For is how long the engine is left broken under load.
	For time.Duration
	// Silent: the engine does not answer while it is broken, so that commands wait.
	Silent bool
	// Fails: initiators may be told of errors; what they are told must be true.
	Fails bool
}

// A suite is what an engine is put through.
type suite struct {
	name string
	run  func(t *testing.T, e *Engine, in Instance)
}

func (e *Engine) lunard(t testing.TB, args ...string) *daemon.Daemon {
	t.Helper()
	return e.lunardAt(t, "127.0.0.1:0", args...)
}

func (e *Engine) lunardAt(t testing.TB, addr string, args ...string) *daemon.Daemon {
	t.Helper()
	if e.Lunard != nil {
		return e.Lunard(t, addr, args...)
	}
	return daemon.StartAt(t, addr, args...)
}

// size is that of a volume for a suite that wants want bytes.
func (e *Engine) size(want int64) int64 { return max(want, e.MinSize) }

func TestEngines(t *testing.T) {
	for _, e := range append(quickEngines(), longEngines()...) {
		t.Run(e.Name, func(t *testing.T) {
			in := e.Start(t)
			for _, s := range append(quickSuites(), longSuites()...) {
				t.Run(s.name, func(t *testing.T) { s.run(t, &e, in) })
			}
		})
	}
}
