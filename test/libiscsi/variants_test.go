//go:build e2e

package libiscsi

import (
	"path/filepath"
	"testing"

	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/nbdkit"
)

// oneToOne is what comes of tests that need physical blocks of several logical ones.
const oneToOne = `
skip SCSI.CompareAndWrite.InvalidDataOutSize a physical block is one logical block
skip SCSI.WriteSame1[06].UnmapUnaligned a physical block is one logical block
skip SCSI.WriteSame1[06].InvalidDataOutSize a physical block is one logical block
pass SCSI.GetLBAStatus.UnmapSingle 100
`

// undefined is what comes of tests of WRITE SAME with UNMAP where nobody says how a deallocated block reads, as with NBD.
const undefined = `
skip SCSI.WriteSame1[06].Unmap* LBPWS is 0
`

// TestVariants runs the suite on every kind of volume, with larger blocks, and with what an initiator may
// negotiate at worst: all data solicited, in small pieces. The verdicts are the same for all.
func TestVariants(t *testing.T) {
	file := func(t *testing.T, options string) suite {
		return suite{uri: daemon.FileURI(filepath.Join(t.TempDir(), "disk.img"), "size=1023M&"+options)}
	}
	for name, variant := range map[string]func(t *testing.T) suite{
		"mem": func(*testing.T) suite { return suite{uri: "mem:?size=1023M"} },
		"nbd": func(t *testing.T) suite { return suite{uri: nbdkit.Start(t, "1023M", nil), instead: undefined} },
		"slow nbd": func(t *testing.T) suite {
			return suite{uri: nbdkit.Start(t, "1023M", []string{"delay"}, "rdelay=1ms", "wdelay=2ms"), instead: undefined}
		},
		"write-through": func(t *testing.T) suite { return file(t, "cache=writethrough") },
		"4096-byte blocks": func(t *testing.T) suite {
			s := file(t, "blocksize=4096")
			s.instead = oneToOne
			return s
		},
		"solicited": func(*testing.T) suite {
			return suite{uri: "mem:?size=1023M",
				flags: []string{"--initial-r2t", "--immediate-data=false", "--first-burst=512", "--max-burst=1024", "--max-recv-data-segment=512"},
				without: map[string]string{"iSCSI.iSCSITMF.AbortTaskSimpleAsync": "when the abort comes while an R2T is out, the tool frees " +
					"the task that it is still sending data of, and often crashes"}}
		},
	} {
		t.Run(name, func(t *testing.T) { variant(t).run(t) })
	}
}
