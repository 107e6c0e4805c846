package tgt

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/initiator"
)

// longhornTID: of the line that ends in the name, what stands before the first colon, its second word.
func longhornTID(show, name string) string {
	for line := range strings.Lines(show) {
		if line = strings.TrimRight(line, "\n"); strings.HasPrefix(line, "Target ") && strings.HasSuffix(line, " "+name) {
			before, _, _ := strings.Cut(line, ":")
			return strings.Fields(before)[1]
		}
	}
	return ""
}

// longhornConnections: "Session: N" opens a session, "Connection: N" is one of its connections.
func longhornConnections(show string) (list [][2]string) {
	sid := ""
	for line := range strings.Lines(show) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), ": "); key {
		case "Session":
			sid = value
		case "Connection":
			list = append(list, [2]string{sid, value})
		}
	}
	return list
}

// Longhorn's go-iscsi-helper: a target a volume, made and torn down with many initiators about. Its store (bstype longhorn), which
// Debian's tgtd does not have, is a file here; test/longhorn has a real engine do it to lunard.
func TestLonghorn(t *testing.T) {
	each(t, func(p *plant) {
		const name = "iqn.2019-10.io.longhorn:vol"
		if s := p.do("tgtadm --lld iscsi --mode system --op show"); !strings.Contains(s, " rdwr") {
			p.Errorf("not alive for Longhorn:\n%s", s)
		}
		disk := p.file("vol", 64<<20)
		p.do("tgtadm --lld iscsi --op new --mode target --tid 1 -T " + name)
		p.do("tgtadm --lld iscsi --op new --mode logicalunit --tid 1 --lun 1 -b " + disk + " --bstype rdwr")
		p.do("tgtadm --lld iscsi --op update --mode logicalunit --tid 1 --lun 1 --params thin_provisioning=1")
		p.do("tgtadm --lld iscsi --op update --mode logicalunit --tid 1 --lun 1 --params mode_page=8:0:18:0x10:0:0xff:0xff:0:0:0xff:0xff:0xff:0xff:0x80:0x14:0:0:0:0:0:0")
		p.do("tgtadm --lld iscsi --op bind --mode target --tid 1 -I ALL")
		if tid := longhornTID(p.do("tgtadm --lld iscsi --op show --mode target"), name); tid != "1" {
			p.Errorf("tid %q", tid)
		}
		// A volume grows: only Longhorn's own tgtd and lunard know the word for it.
		r := p.quiet("truncate -s 128M " + disk + " && tgtadm --lld iscsi --op update --mode logicalunit --tid 1 --lun 1 --params bsopts=size=134217728")
		if refused := r.status == 22 && strings.HasPrefix(r.stderr, "tgtadm: invalid request"); (p.daemon == tgtd) != refused {
			p.Errorf("bsopts=size: %+v", r)
		}
		s := p.login(initiator.Options{TargetName: name})
		p.refuse("tgtadm --lld iscsi --op delete --mode target --tid 1", "this target is still active")
		p.do("tgtadm --lld iscsi --op unbind --mode target --tid 1 -I ALL")
		p.refuse("tgtadm --lld iscsi --op unbind --mode target --tid 1 -I ALL", "this access control rule does not exist")
		connections := longhornConnections(p.do("tgtadm --lld iscsi --op show --mode conn --tid 1"))
		if len(connections) != 1 {
			p.Fatalf("connections %v", connections)
		}
		for _, c := range connections {
			p.do(fmt.Sprintf("tgtadm --lld iscsi --op delete --mode conn --tid 1 --sid %s --cid %s", c[0], c[1]))
		}
		waitEnd(p, s)
		p.do("tgtadm --lld iscsi --op delete --mode logicalunit --tid 1 --lun 1")
		// Longhorn hands the tid on as it cut it out of the line.
		p.do("tgtadm --lld iscsi --op delete --mode target --tid 1:")
		if out := p.do("tgtadm --lld iscsi --op show --mode target"); out != "" {
			p.Errorf("left over:\n%s", out)
		}
	})
}

// A store that the daemon does not have, or whose engine is not there, is refused and leaves nothing behind, not even the LUN's number.
func TestForeignStores(t *testing.T) {
	each(t, func(p *plant) {
		p.do("tgtadm --lld iscsi --op new --mode target --tid 1 -T iqn.2026-01.com.example:foreign")
		for _, store := range []string{
			"--bstype longhorn --bsopts size=67108864 -b " + p.dir + "/longhorn.sock", // Longhorn
			"--bstype glfs -b volume@host:path",
		} {
			p.refuse("tgtadm --lld iscsi --op new --mode logicalunit --tid 1 --lun 1 "+store, "invalid request")
		}
		p.do("tgtadm --lld iscsi --op new --mode logicalunit --tid 1 --lun 1 -b " + p.file("disk", 1<<20))
		p.do("tgtadm --lld iscsi --op show --mode target")
	})
}
