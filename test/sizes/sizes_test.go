package sizes

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
)

const limit = 30 * time.Second

const tib = uint64(1) << 40

// A disk is a logged-in session on a disk of blocks × size bytes.
type disk struct {
	t      *testing.T
	s      *initiator.Session
	lun    sam.LUN
	blocks uint64
	size   int
}

func TestBounds(t *testing.T) {
	for _, size := range []int{512, 4096} {
		b := uint64(size)
		for name, bytes := range map[string]uint64{
			"2 TiB - 1 block": 2*tib - b, "2 TiB": 2 * tib, "2 TiB + 1 block": 2*tib + b,
			"2^32 - 1 blocks": (1<<32 - 1) * b, "2^32 blocks": 1 << 32 * b, "2^32 + 1 blocks": (1<<32 + 1) * b,
			"16 TiB": 16 * tib,
		} {
			t.Run(fmt.Sprintf("%s of %d", name, size), func(t *testing.T) {
				d := open(t, fmt.Sprintf("mem:?size=%d&blocksize=%d", bytes, size), size)
				if d.blocks != bytes/b {
					t.Fatalf("%d blocks, want %d", d.blocks, bytes/b)
				}
				d.ends(true)
			})
		}
		t.Run(fmt.Sprintf("nearly 2^63 bytes of %d", size), func(t *testing.T) {
			most := uint64(math.MaxInt64) &^ 4095
			d := open(t, fmt.Sprintf("null:?size=%d&blocksize=%d", most, size), size)
			if d.blocks != most/b {
				t.Fatalf("%d blocks, want %d", d.blocks, most/b)
			}
			d.ends(false)
		})
	}
}

func open(t *testing.T, uri string, size int) *disk {
	t.Helper()
	srv := daemon.Start(t, daemon.Export("sizes", uri))
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	s, err := initiator.Login(ctx, initiator.Options{Portal: srv.Addr, TargetName: daemon.Prefix + "sizes"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	d := &disk{t: t, s: s, lun: sam.NewLUN(1), size: size}
	d.command(initiator.TestUnitReady(), nil, 0) // takes the unit attention of a new nexus
	res := d.good(initiator.ReadCapacity16(32), nil, 32)
	d.blocks = binary.BigEndian.Uint64(res.Data) + 1
	if got := binary.BigEndian.Uint32(res.Data[8:]); got != uint32(size) {
		t.Fatalf("blocks of %d bytes, want %d", got, size)
	}
	return d
}

// ends reads and writes around what the disk's numbers could wrap at: its ends, 2 TiB, 2^32 blocks.
func (d *disk) ends(keeps bool) {
	d.t.Helper()
	want := uint32(min(d.blocks-1, math.MaxUint32)) // SBC-3 READ CAPACITY(10): FFFFFFFFh means ask READ CAPACITY(16)
	if res := d.good([]byte{cdb.ReadCapacity10, 9: 0}, nil, 8); binary.BigEndian.Uint32(res.Data) != want {
		d.t.Errorf("READ CAPACITY(10): last block %#x, want %#x", binary.BigEndian.Uint32(res.Data), want)
	}
	var at []uint64
	for _, around := range []uint64{8, 2 * tib / uint64(d.size), 1 << 32, d.blocks} {
		for _, lba := range []uint64{around - 8, around - 1, around} {
			if lba+8 <= d.blocks {
				at = append(at, lba)
			}
		}
	}
	at = append(at, d.blocks-8)
	for i, lba := range at {
		data := bytes.Repeat([]byte{byte(i + 1)}, 8*d.size)
		d.good(transfer(cdb.Write16, lba, 8), data, 0)
		res := d.good(transfer(cdb.Read16, lba, 8), nil, len(data))
		if keeps && !bytes.Equal(res.Data, data) {
			d.t.Errorf("block %#x: other data than was written", lba)
		}
	}
	if keeps {
		// Nothing has wrapped: the last write to each place is what it holds, but for what overlapped it later.
		first := d.good(transfer(cdb.Read16, 0, 1), nil, d.size)
		if !bytes.Equal(first.Data, bytes.Repeat([]byte{1}, d.size)) {
			d.t.Errorf("block 0 holds %x…: a write elsewhere came here", first.Data[:4])
		}
	}
	d.good(transfer(cdb.Read16, d.blocks, 0), nil, 0)
	for _, r := range []struct {
		lba    uint64
		blocks uint32
	}{{d.blocks, 1}, {d.blocks - 1, 2}, {d.blocks + 1, 0}, {math.MaxUint64, 1}, {math.MaxUint64, 0}, {1 << 63, 1}, {math.MaxInt64, 1}} {
		for _, op := range []byte{cdb.Read16, cdb.Write16} {
			var out []byte
			if op == cdb.Write16 {
				out = make([]byte, int(r.blocks)*d.size)
			}
			res := d.command(transfer(op, r.lba, r.blocks), out, int(r.blocks)*d.size-len(out))
			key, asc, ascq, _ := initiator.SenseFields(res.Sense)
			if res.Status != sam.CheckCondition || key != 5 || asc != 0x21 || ascq != 0 {
				d.t.Errorf("opcode %#x, %d blocks at %#x of %#x: %v %x/%02x/%02x, want 5/21/00", op, r.blocks, r.lba, d.blocks, res.Status, key, asc, ascq)
			}
		}
	}
}

func transfer(op byte, lba uint64, blocks uint32) []byte {
	b := make([]byte, 16)
	b[0] = op
	binary.BigEndian.PutUint64(b[2:], lba)
	binary.BigEndian.PutUint32(b[10:], blocks)
	return b
}

func (d *disk) command(b, out []byte, in int) initiator.Result {
	d.t.Helper()
	res, err := d.s.Command(d.t.Context(), d.lun, b, out, in)
	if err != nil {
		d.t.Fatal(err)
	}
	return res
}

func (d *disk) good(b, out []byte, in int) initiator.Result {
	d.t.Helper()
	res := d.command(b, out, in)
	if err := res.Err(); err != nil {
		d.t.Fatalf("% x: %v", b, err)
	}
	return res
}
