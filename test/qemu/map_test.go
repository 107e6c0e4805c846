package qemu

import (
	"encoding/json"
	"testing"

	"github.com/lunar-iscsi/lunar/test/daemon"
)

// What is allocated (GET LBA STATUS) is known on every store that knows it, and an initiator sees it: what was written is data, the rest is not.
func TestMap(t *testing.T) {
	each(t, func(t *testing.T, url string, d *daemon.Daemon, _ string) {
		qemuIO(t, url, "write -P 0x11 4M 1M", "write -P 0x12 63M 1M", "flush")
		var runs []struct {
			Start, Length int64
			Data          bool
		}
		out := run(t, "qemu-img", "map", "-f", "raw", "--output=json", url)
		if err := json.Unmarshal([]byte(out), &runs); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		at := int64(0)
		for _, r := range runs {
			if r.Start != at {
				t.Errorf("a run at %d, want %d: %s", r.Start, at, out)
			}
			written := r.Start >= 4<<20 && r.Start < 5<<20 || r.Start >= 63<<20
			if r.Data != written {
				t.Errorf("%d+%d: data %v, want %v", r.Start, r.Length, r.Data, written)
			}
			at += r.Length
		}
		if at != size || len(runs) < 4 {
			t.Errorf("%d runs of %d bytes in all: %s", len(runs), at, out)
		}
		if d != nil {
			d.Stop(t)
		}
	})
}
