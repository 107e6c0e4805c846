//go:build e2e

package nbd

import (
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/test/deps"
)

func TestConformanceQSDLong(t *testing.T) {
	t.Run("qcow2", func(t *testing.T) { conformQSD(t, "qcow2", false) })
	t.Run("tls", func(t *testing.T) { conformQSD(t, "raw", true) })
	t.Run("qcow2 with TLS", func(t *testing.T) { conformQSD(t, "qcow2", true) })
}

func TestConformanceNBDKitLong(t *testing.T) {
	deps.Find(t, "nbdkit")
	for name, tc := range map[string]struct {
		caps    backstore.Caps
		conns   int
		filters []string
		params  []string
	}{
		"everything":     {all, defaultConns, nil, nil},
		"nozero":         {all &^ backstore.CapWriteZeroes, defaultConns, []string{"--filter=nozero"}, nil},
		"no fast zeroes": {all, defaultConns, []string{"--filter=nozero"}, []string{"zeromode=plugin", "fastzeromode=none"}},
		"delay":          {all, defaultConns, []string{"--filter=delay"}, []string{"rdelay=1ms", "wdelay=1ms"}},
		"one connection": {all, 1, []string{"--filter=multi-conn"}, []string{"multi-conn-mode=disable"}},
	} {
		t.Run(name, func(t *testing.T) { conformNBDKit(t, tc.caps, tc.conns, tc.filters, tc.params...) })
	}
}
