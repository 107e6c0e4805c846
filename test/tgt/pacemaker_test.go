package tgt

import (
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/initiator"
)

// The shell that ClusterLabs' agents read tgtadm's output by, in our words: the target's block, and in it each session and connection.
const pacemakerShell = `
show() { tgtadm --lld iscsi --op show --mode target; }
block() { show | sed -ne "/^Target $1:/,/^Target [0-9]/p" | sed -e '1!{/^Target/,$d}'; }
connections() { block "$1" | sed -ne '/LUN information:/q' -e 's/^ *I_T nexus: *\([0-9][0-9]*\)$/S \1/p' -e 's/^ *Connection: *\([0-9][0-9]*\)$/C \1/p'; }
`

// ClusterLabs resource-agents, iSCSITarget and iSCSILogicalUnit with tgt: start, monitor, and a stop that has to succeed whoever
// is connected and however often they come back.
func TestPacemaker(t *testing.T) {
	each(t, func(p *plant) {
		const iqn = "iqn.2026-01.com.example:ha"
		run := func(line string) string { return p.do(pacemakerShell + line) }
		disk := p.file("ha", 64<<20)
		// iSCSITarget start
		run("tgtadm --lld iscsi --op new --mode target --tid=3 --targetname " + iqn)
		run("tgtadm --lld iscsi --op update --mode target --tid=3 --name MaxRecvDataSegmentLength --value 65536")
		run("tgtadm --lld iscsi --op bind --mode target --tid=3 --initiator-address=127.0.0.1")
		run("tgtadm --lld iscsi --op bind --mode target --tid=3 --initiator-address=192.0.2.1")
		run("tgtadm --lld iscsi --mode account --op new --user=hauser --password=hapasswordhapass")
		run("tgtadm --lld iscsi --mode account --op bind --tid=3 --user=hauser")
		// iSCSITarget monitor
		run("show | grep -Eq 'Target [0-9]+: " + iqn + "'")
		// iSCSILogicalUnit start, monitor
		run("tgtadm --lld iscsi --op new --mode logicalunit --tid=3 --lun=1 --backing-store " + disk + " --bstype rdwr --bsoflags sync --device-type disk")
		for _, param := range []string{"scsi_id=ha-scsi-id", "scsi_sn=3f1a9c2e", "vendor_id=LINBIT", "product_id=ha-disk"} {
			run("tgtadm --lld iscsi --op update --mode logicalunit --tid=3 --lun=1 --params " + param)
		}
		run(`tid=$(show | sed -ne 's,^Target \([0-9][0-9]*\): ` + iqn + `$,\1,p'); [ "$tid" = 3 ] && block $tid | grep -E -q 'Backing store.*: ` + disk + `$'`)
		o := initiator.Options{TargetName: iqn, CHAP: &initiator.CHAP{Name: "hauser", Secret: []byte("hapasswordhapass")}}
		s, other := p.login(o), p.login(withName(o, "iqn.2026-01.com.example:second"))
		if got := run("connections 3"); got != "S 1\nC 0\nS 2\nC 0\n" {
			p.Errorf("the agent sees\n%s", got)
		}
		// iSCSILogicalUnit stop: until it works; with initiators that do nothing it does at once.
		run("n=0; until tgtadm --lld iscsi --op delete --mode logicalunit --tid=3 --lun=1; do [ $((n += 1)) -lt 100 ]; done")
		if out := run("block 3"); strings.Contains(out, "LUN: 1") {
			p.Errorf("LUN 1 is still there:\n%s", out)
		}
		// iSCSITarget stop: nobody new, then out with those that are there, then the target.
		for _, address := range []string{"127.0.0.1", "192.0.2.1"} {
			run("tgtadm --lld iscsi --op unbind --mode target --tid=3 --initiator-address=" + address)
		}
		if again, err := p.tryLogin(o); err == nil {
			again.Close()
			p.Error("a login after the unbind")
		}
		run(`connections 3 | while read what n; do case $what in S) sid=$n ;; C) tgtadm --lld iscsi --op delete --mode connection --tid=3 --sid=$sid --cid=$n || exit ;; esac; done`)
		waitEnd(p, s)
		waitEnd(p, other)
		run("tgtadm --lld iscsi --mode account --op unbind --tid=3 --user=hauser")
		run("tgtadm --lld iscsi --mode account --op delete --user=hauser")
		// tgtd takes a moment for a connection that it was told to close; the agent asks until it works.
		if r := p.quiet("n=0; until tgtadm --lld iscsi --op delete --mode target --tid=3; do [ $((n += 1)) -lt 1000 ] || exit 1; done"); r.status != 0 {
			p.Errorf("the target stays: %+v", r)
		}
		run("! show | grep -q Target")
	})
}

func withName(o initiator.Options, name string) initiator.Options {
	o.InitiatorName = name
	o.ISID = [6]byte{0x80, 0, 0, 1, 0, 2}
	return o
}
