package tgt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/tgt/sample"
)

// adminPlants runs f as each does, on the control port that the samples of tgt-admin were taken on, with the files that their
// configuration names.
func adminPlants(t *testing.T, f func(p *plant)) {
	t.Helper()
	eachOn(t, []string{"-C", "8", "--iscsi", "portal=127.0.0.1:0,nop_interval=10,nop_count=3"}, "8", func(p *plant) {
		for _, name := range []string{"disk4.img", "disk5.img", "disk6.img"} {
			p.file(name, 64<<20)
		}
		text := strings.ReplaceAll(sample.Input(p, "50-targets.conf.txt"), sample.Demo, p.dir)
		p.text("targets.conf", text)
		p.text("targets2.conf", strings.ReplaceAll(text, "incomingdiscoveryuser", "#incomingdiscoveryuser"))
		f(p)
	})
}

// Debian's tgt-admin through the life of a configuration, its output and tgtadm's that of the samples.
func TestAdminSamples(t *testing.T) {
	adminPlants(t, func(p *plant) {
		// lsof is how tgt-admin learns whether a file is in use.
		held := func(name string, want bool) {
			p.Helper()
			if got := p.quiet("lsof "+filepath.Join(p.dir, name)).status == 0; got != want {
				p.Errorf("lsof sees %s held: %v, want %v", name, got, want)
			}
		}
		held("disk4.img", false)
		p.check("51-tgt-admin-execute-pretend", inAnyOrder)
		p.check("52-tgt-admin-execute-verbose", inAnyOrder)
		for _, name := range []string{"disk4.img", "disk5.img", "disk6.img"} {
			held(name, true)
		}
		p.check("53-tgt-admin-show", asItIs)
		p.check("54-tgt-admin-dump", paragraphs)
		p.check("55-tgt-admin-execute-again", asItIs)
		p.check("56-tgt-admin-update-all-discovery-user", asItIs)
		// Torn down and made anew: each file has to be closed when the delete has been answered.
		p.check("57-tgt-admin-update-all", inAnyOrder)
		held("disk6.img", true)
		p.check("53-tgt-admin-show", asItIs)

		plain := initiator.Options{TargetName: "iqn.2026-01.com.example:plain"}
		s := p.login(plain)
		p.check("58-tgt-admin-delete-in-use", asItIs)
		p.check("58-tgt-admin-update-in-use", inAnyOrder)
		if _, err := s.Ping(p.Context(), nil); err != nil {
			p.Errorf("the session that kept the target: %v", err)
		}
		p.check("58-tgt-admin-delete-force", asItIs)
		waitEnd(p, s)
		held("disk4.img", false)

		full := initiator.Options{TargetName: "iqn.2026-01.com.example:full", CHAP: &initiator.CHAP{Name: "alice", Secret: []byte("secretpass12")}}
		p.check("59-tgt-admin-offline-all", asItIs)
		if _, err := p.tryLogin(full); err == nil || !strings.Contains(err.Error(), "0300h") {
			p.Errorf("a login to a target that is offline: %v", err)
		}
		p.check("59-tgt-admin-ready-name", asItIs)
		p.check("59-tgt-admin-ready-tid", asItIs)
		if err := p.login(full).Logout(p.Context()); err != nil {
			p.Error(err)
		}
		p.check("59-tgt-admin-update-devnull-force", asItIs)
		held("disk5.img", false)
		p.check("59-system-delete", asItIs)
		if r := p.quiet("tgtadm -C 8 --mode system --op show"); r.status != 107 {
			p.Errorf("the daemon answers after system delete: %+v", r)
		}
		<-p.ended
		if code := p.proc.ProcessState.ExitCode(); code != 0 {
			p.Errorf("system delete ends the daemon with status %d", code)
		}
	})
}

// The forced delete of a target whose only rule is a name fails with the words that Cinder takes for harmless.
func TestAdminForcedDeleteByName(t *testing.T) {
	adminPlants(t, func(p *plant) {
		const iqn, name = "iqn.2026-01.com.example:q", "iqn.1993-08.org.debian:01:initiator-a"
		p.do("tgtadm -C 8 --mode target --op new --tid 1 -T " + iqn)
		p.do("tgtadm -C 8 --mode target --op bind --tid 1 -Q " + name)
		if _, err := p.tryLogin(initiator.Options{TargetName: iqn}); err == nil {
			p.Error("an initiator without the name got in")
		}
		s := p.login(initiator.Options{TargetName: iqn, InitiatorName: name})
		p.check("58-tgt-admin-delete-force-iqn-acl", asItIs)
		if _, err := s.Ping(p.Context(), nil); err != nil {
			p.Errorf("the session after a delete that failed: %v", err)
		}
	})
}

// What would be done is printed and not done: with rules that are names alone, with what is left out because it is not there or
// somebody has it, with direct-store.
func TestAdminPretend(t *testing.T) {
	adminPlants(t, func(p *plant) {
		p.text("names.conf", "<target iqn.2026-01.com.example:names>\n  backing-store "+p.dir+"/disk4.img\n  initiator-name iqn.1993-08.org.debian:01:only-me\n</target>\n")
		p.check("51-tgt-admin-pretend-initiator-name-only", asItIs)
		s := sample.Read(p, "51-tgt-admin-pretend-more.txt")
		p.text("more.conf", strings.ReplaceAll(strings.ReplaceAll(s.Note["config"], "|", "\n"), sample.Demo, p.dir))
		// The file that the sample's daemon had is this process's.
		held, err := os.Open(p.file("tiny.img", 1<<20))
		if err != nil {
			p.Fatal(err)
		}
		defer held.Close()
		p.check("51-tgt-admin-pretend-more", inAnyOrder)
		if out := p.do("tgtadm -C 8 --mode target --op show"); out != "" {
			p.Errorf("it was not all pretence:\n%s", out)
		}
	})
}

// What configuration files can say beyond the samples': each directive of a LUN, and which command it becomes.
func TestAdminDirectives(t *testing.T) {
	adminPlants(t, func(p *plant) {
		p.file("tiny.img", 1<<20)
		conf := p.text("more.conf", strings.ReplaceAll(`
default-driver iscsi
include DIR/conf.d/*.conf
<target iqn.2026-01.com.example:luns>
    <backing-store DIR/disk4.img>
        lun 2
        allow-in-use yes
        mode_page 8:0:18:0x14:0:0xff:0xff:0:0:0xff:0xff:0xff:0xff:0x80:0x14:0:0:0:0:0:0
        bsoflags direct
        lbppbe 3
        la_lba 0
        optimal_xfer_gran 8
        optimal_xfer_len 2048
        sense_format 1
        params rotation_rate=1,thin_provisioning=1
    </backing-store>
    <backing-store DIR/missing.img>
    </backing-store>
    <backing-store DIR/tiny.img>
        scsi_id tiny-id
        scsi_sn tiny-sn
        product_rev 0099
        online 1
    </backing-store>
    write-cache off
    nop_interval 5
    MaxOutstandingR2T 4
    state offline
</target>
`, "DIR", p.dir))
		if err := os.Mkdir(filepath.Join(p.dir, "conf.d"), 0o755); err != nil {
			p.Fatal(err)
		}
		p.text("conf.d/one.conf", "<target iqn.2026-01.com.example:included>\n  backing-store "+p.dir+"/disk5.img\n  initiator-address 127.0.0.0/8\n</target>\n")
		for _, option := range []string{"-p", "-v"} {
			p.do("tgt-admin -C 8 -e " + option + " -c " + conf)
		}
		show := p.do("tgtadm -C 8 --mode target --op show")
		for _, want := range []string{"State: offline", "LUN: 2", "SCSI ID: tiny-id", "Backing store flags: direct", "127.0.0.0/8"} {
			if !strings.Contains(show, want) {
				p.Errorf("no %q in\n%s", want, show)
			}
		}
		p.do("tgtadm -C 8 --mode target --op show --tid 1")
		p.do("tgtadm -C 8 --mode target --op show --tid 2")
		// One target alone, updated by name, brought up to date with a changed file; what is no longer in the file goes.
		p.text("conf.d/one.conf", "<target iqn.2026-01.com.example:included>\n  backing-store "+p.dir+"/disk6.img\n</target>\n")
		p.do("tgt-admin -C 8 --update iqn.2026-01.com.example:included -v -c " + conf)
		p.text("more.conf", "include "+p.dir+"/conf.d/*.conf\n")
		p.do("tgt-admin -C 8 -e -v -c " + conf)
		if show := p.do("tgtadm -C 8 --mode target --op show"); strings.Contains(show, "example:luns") || !strings.Contains(show, "disk6.img") {
			p.Errorf("after the last --execute\n%s", show)
		}
	})
}
