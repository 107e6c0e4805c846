package tgt

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/initiator"
)

// cinderTID finds a target as Cinder does: the second word, less its last character, of the first line that has the name.
func cinderTID(show, iqn string) string {
	for line := range strings.Lines(show) {
		if strings.Contains(line, iqn) {
			word := strings.Fields(line)[1]
			return word[:len(word)-1]
		}
	}
	return ""
}

// cinderHasLUN looks for LUN 1 as Cinder does: a line that is it and nothing else, between the target's line and the next target's.
func cinderHasLUN(show, iqn, tid string) bool {
	var block []string
	capture := false
	for _, line := range strings.Split(show, "\n") {
		if strings.Contains(line, iqn) && strings.Contains(line, "Target "+tid) {
			capture = true
		}
		if capture {
			block = append(block, line)
		}
		if !strings.Contains(line, iqn) && strings.Contains(line, "Target ") {
			capture = false
		}
	}
	return slices.Contains(block, "        LUN: 1")
}

// OpenStack Cinder (cinder/volume/targets/tgt.py): a file a volume below a folder that targets.conf includes, tgt-admin for each change.
func TestCinder(t *testing.T) {
	each(t, func(p *plant) {
		volumes := filepath.Join(p.dir, "volumes")
		if err := os.Mkdir(volumes, 0o755); err != nil {
			p.Fatal(err)
		}
		conf := p.text("targets.conf", "include "+volumes+"/*\n")
		create := func(name, user string) string {
			iqn := "iqn.2010-10.org.openstack:" + name
			disk := p.file(name, 64<<20)
			text := fmt.Sprintf("\n<target %s>\n    backing-store %s\n    driver iscsi\n    incominguser %s secretsecret12\n    write-cache on\n</target>\n", iqn, disk, user)
			p.text(filepath.Join("volumes", name), text)
			p.do("tgt-admin --update " + iqn + " -c " + conf)
			show := p.do("tgt-admin --show")
			tid := cinderTID(show, iqn)
			if tid == "" || !cinderHasLUN(show, iqn, tid) {
				p.Fatalf("Cinder finds tid %q and no LUN 1 in\n%s", tid, show)
			}
			return iqn
		}
		one, two := create("volume-1", "ua"), create("volume-2", "ub")
		// A race with itself: the target is there already.
		p.refuse("tgtadm --lld iscsi --op new --mode target --tid 9 -T "+one, "this target already exists")
		// The LUN is lost: Cinder makes it anew.
		tid := cinderTID(p.do("tgt-admin --show"), one)
		p.do("tgtadm --lld iscsi --op delete --mode logicalunit --tid " + tid + " --lun 1")
		if cinderHasLUN(p.do("tgtadm --lld iscsi --op show --mode target"), one, tid) {
			p.Error("a LUN that was deleted")
		}
		p.do("tgtadm --lld iscsi --op new --mode logicalunit --tid " + tid + " --lun 1 -b " + filepath.Join(p.dir, "volume-1"))
		if !cinderHasLUN(p.do("tgtadm --lld iscsi --op show --mode target"), one, tid) {
			p.Error("no LUN after it was made anew")
		}
		s := p.login(initiator.Options{TargetName: one, CHAP: &initiator.CHAP{Name: "ua", Secret: []byte("secretsecret12")}})
		// Removal while an initiator is there: forced, then once more to be sure.
		for _, iqn := range []string{one, two} {
			if err := os.Remove(filepath.Join(volumes, strings.TrimPrefix(iqn, "iqn.2010-10.org.openstack:"))); err != nil {
				p.Fatal(err)
			}
			p.do("tgt-admin --force --delete " + iqn)
			if cinderTID(p.do("tgt-admin --show"), iqn) != "" {
				p.do("tgt-admin --delete " + iqn)
			}
			if show := p.do("tgt-admin --show"); cinderTID(show, iqn) != "" {
				p.Errorf("%s is still there:\n%s", iqn, show)
			}
		}
		waitEnd(p, s)
		p.refuse("tgtadm --lld iscsi --op delete --mode target --tid "+tid, "can't find the target")
		p.refuse("tgtadm --lld iscsi --op unbind --mode target --tid "+tid+" -I ALL", "can't find the target")
	})
}
