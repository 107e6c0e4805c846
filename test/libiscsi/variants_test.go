//go:build e2e

package libiscsi

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/nbdkit"
)

// oneToOne is what comes of tests that need physical blocks of several logical ones, or blocks of 512 bytes.
const oneToOne = `
skip SCSI.CompareAndWrite.InvalidDataOutSize a physical block is one logical block
skip SCSI.WriteSame1[06].UnmapUnaligned a physical block is one logical block
skip SCSI.WriteSame1[06].InvalidDataOutSize a physical block is one logical block
pass SCSI.GetLBAStatus.UnmapSingle 100
fault SCSI.ProutReserve.Access* "0x0e03" it sends 512 bytes for a block, whatever the block's size
`

// protected is what comes of the tests where nothing may be written: those that have to write are told so. A disk that is
// never written has nothing to deallocate either.
const protected = `
pass SCSI.ReadOnly.* 13
skip SCSI.CompareAndWrite.InvalidDataOutSize LBPME is 0
skip SCSI.GetLBAStatus.UnmapSingle LBPME is 0
skip SCSI.Inquiry.BlockLimits LBPME is 0
skip SCSI.Unmap.[SZ]* LBPME is 0
skip SCSI.WriteSame1[06].Unmap LBPME is 0
skip SCSI.WriteSame1[06].UnmapUn* LBPME is 0
skip SCSI.WriteSame1[06].InvalidDataOutSize LBPME is 0
fault SCSI.CompareAndWrite.[SDM]* "WRITE_PROTECTED" it writes
fault SCSI.CompareAndWrite.Unwritten "memcmp" it writes
fault SCSI.OrWrite.[SZDV]* "WRITE_PROTECTED" it writes
fault SCSI.ProutReserve.Access* "WRITE_PROTECTED" it writes
fault SCSI.Write1[026].[SZD]* "WRITE_PROTECTED" it writes
fault SCSI.Write10.Async "SCSI_STATUS_CHECK_CONDITION" it writes
fault SCSI.WriteSame1[06].[SZC]* "WRITE_PROTECTED" it writes
fault SCSI.WriteVerify1[026].[SZFD]* "WRITE_PROTECTED" it writes
fault SCSI.MultipathIO.Simple "WRITE_PROTECTED" it writes
fault SCSI.MultipathIO.CompareAndWrite* "WRITE_PROTECTED" it writes
fault iSCSI.iSCSIResiduals.Write* "WRITE_PROTECTED" it writes
fault iSCSI.iSCSITMF.AbortTaskSimpleAsync "SCSI_STATUS_CHECK_CONDITION" it writes
`

// TestVariants runs the suite on every kind of volume, with larger blocks, and with what an initiator may
// negotiate at worst: all data solicited, in small pieces. The verdicts are the same for all.
func TestVariants(t *testing.T) {
	file := func(t *testing.T, options string) Suite {
		return Suite{URI: daemon.FileURI(filepath.Join(t.TempDir(), "disk.img"), "size=1023M&"+options)}
	}
	for name, variant := range map[string]func(t *testing.T) Suite{
		"mem": func(*testing.T) Suite { return Suite{URI: "mem:?size=1023M"} },
		"nbd": func(t *testing.T) Suite { return Suite{URI: nbdkit.Start(t, "1023M", nil), Instead: Undefined} },
		"slow nbd": func(t *testing.T) Suite {
			return Suite{URI: nbdkit.Start(t, "1023M", []string{"delay"}, "rdelay=1ms", "wdelay=2ms"), Instead: Undefined}
		},
		"read-only": func(t *testing.T) Suite {
			path := filepath.Join(t.TempDir(), "disk.img")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, 1023<<20); err != nil {
				t.Fatal(err)
			}
			return Suite{URI: daemon.FileURI(path, "readonly"), Instead: protected}
		},
		"write-through": func(t *testing.T) Suite { return file(t, "cache=writethrough") },
		"4096-byte blocks": func(t *testing.T) Suite {
			s := file(t, "blocksize=4096")
			s.Instead = oneToOne
			return s
		},
		"solicited": func(*testing.T) Suite {
			return Suite{URI: "mem:?size=1023M",
				Flags: []string{"--initial-r2t", "--immediate-data=false", "--first-burst=512", "--max-burst=1024", "--max-recv-data-segment=512"},
				Without: map[string]string{"iSCSI.iSCSITMF.AbortTaskSimpleAsync": "when the abort comes while an R2T is out, the tool frees " +
					"the task that it is still sending data of, and often crashes"}}
		},
	} {
		t.Run(name, func(t *testing.T) { variant(t).Run(t) })
	}
}
