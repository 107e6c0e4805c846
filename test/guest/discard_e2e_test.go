//go:build e2e

package guest

import (
	"strings"
	"testing"
)

// discards has the kernel, and sg3-utils, take parts of a disk away: what they name reads as zeroes and leaves
// lunard's file, and what lies beside it stays, to the block.
func discards(t *testing.T, o Options) {
	t.Helper()
	s := serve(t, "64M", "--trace=pdu")
	g := BootWith(t, o)
	disk := s.login(t, g)
	before := len(s.Log())
	g.Run(t, `
		set -e
		disk=`+disk+`
		head -c 32M /dev/urandom >/tmp/data
		dd if=/tmp/data of=$disk bs=1M oflag=direct status=none
		# zero FIRST COUNT: so much of our copy is zeroes, in blocks of 512 bytes.
		zero() { dd if=/dev/zero of=/tmp/data bs=512 seek=$1 count=$2 conv=notrunc status=none; }
		same() { uncached $disk; cmp -n $((32 << 20)) /tmp/data $disk; }
		q=/sys/block/${disk#/dev/}/queue
		[ $(<$q/discard_max_bytes) -gt 0 ] && [ $(<$q/write_zeroes_max_bytes) -gt 0 ]

		blkdiscard -o $((4 << 20)) -l $((8 << 20)) $disk
		zero 8192 16384
		same`)
	// What is there before and behind, and no more: 32 MiB written, 8 MiB taken away.
	if n := s.allocated(t); n < 24<<20 || n > 25<<20 {
		t.Errorf("after the discard lunard's file has %d bytes allocated, want 24 MiB", n)
	}
	g.Run(t, `
		set -e
		disk=`+disk+`
		zero() { dd if=/dev/zero of=/tmp/data bs=512 seek=$1 count=$2 conv=notrunc status=none; }
		same() { uncached $disk; cmp -n $((32 << 20)) /tmp/data $disk; }

		blkdiscard -z -o $((16 << 20 | 512)) -l $((3 << 20)) $disk
		zero 32769 6144
		same
		fallocate -z -o $((20 << 20)) -l 8192 $disk
		zero 40960 16
		same
		# One block too early and one too late would both be seen.
		sg_unmap --lba=50001 --num=77 $disk
		zero 50001 77
		same
		sg_write_same --16 --lba=52000 --num=33 --ndob $disk
		zero 52000 33
		same
		sg_write_same --10 --unmap --lba=53001 --num=9 --in=/dev/zero --xferlen=512 $disk
		zero 53001 9
		same
		head -c 512 /dev/urandom >/tmp/block
		sg_write_same --16 --lba=54000 --num=50 --in=/tmp/block --xferlen=512 $disk
		for i in $(seq 54000 54049); do dd if=/tmp/block of=/tmp/data bs=512 seek=$i conv=notrunc status=none; done
		same
		blkdiscard $disk
		[ "$(dd if=$disk bs=1M iflag=direct status=none | tr -d '\0' | wc -c)" = 0 ]
		logout `+iqn)
	if n := s.allocated(t); n > 1<<20 {
		t.Errorf("the whole disk was discarded, and lunard's file still has %d bytes allocated", n)
	}
	log := s.Log()[before:]
	for command, code := range map[string]string{"UNMAP": "42", "WRITE SAME(16)": "93", "WRITE SAME(10)": "41"} {
		if !strings.Contains(log, " cdb="+code) {
			t.Errorf("no %s among the PDUs", command)
		}
	}
	g.Shutdown(t)
	s.Stop(t)
}

func TestDiscard(t *testing.T) {
	t.Parallel()
	discards(t, Options{})
}
