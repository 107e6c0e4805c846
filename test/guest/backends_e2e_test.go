//go:build e2e

package guest

import (
	"os"
	"testing"
)

// What the other backend's kernel (QEMU's, unless the environment chose that for all guests) makes of the same: it is
// an SMP kernel as distributions ship it, where user-mode Linux has one processor and no preemption.
func TestOtherBackend(t *testing.T) {
	t.Parallel()
	o := Options{Backend: QEMU}
	if Backend(os.Getenv(BackendVariable)) == QEMU {
		o.Backend = UML
	}
	for name, test := range map[string]func(*testing.T, Options){
		"disk":         wholeLife,
		"ext4":         ext4,
		"cuts":         func(t *testing.T, o Options) { underCuts(t, o, 20) },
		"kills":        func(t *testing.T, o Options) { underKills(t, o, 20, 3) },
		"reboot":       reboot,
		"discard":      discards,
		"reservations": reservations,
		"multipath":    multipath,
	} {
		t.Run(name, func(t *testing.T) { test(t, o) })
	}
}
