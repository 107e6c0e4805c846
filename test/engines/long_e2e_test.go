//go:build e2e

package engines

import (
	"testing"

	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/libiscsi"
)

// longEngines are those of `make e2e` alone.
func longEngines() []Engine {
	return []Engine{qsdEngine("raw", false), qsdEngine("qcow2", false), qsdEngine("raw", true), rbdEngine(), bluestoreEngine(), qsdRBDEngine(), longhornEngine()}
}

func longSuites() []suite {
	return []suite{{"libiscsi", conformance}, {"guest", guests}}
}

// conformance is libiscsi's suite.
func conformance(t *testing.T, e *Engine, in Instance) {
	libiscsi.Suite{
		URI: in.Volume(t, e.size(1023<<20)), Instead: e.Libiscsi,
		Start: func(t testing.TB, args ...string) *daemon.Daemon { return e.lunard(t, args...) },
	}.Run(t)
}
