package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/backstore"
)

// volumeScript is a tour of what is done with volumes.
var volumeScript = []string{
	"$ store list",
	"$ volume create fake:pool/disk 1M",
	"$ volume create fake:pool/disk 1M",
	"$ volume create fake:pool/disk 1M --allow-existing",
	"$ volume create fake:pool/disk 2M --allow-existing",
	"$ volume create fake:pool/odd 1000",
	"$ volume create fake:pool/large 2T",
	"$ volume create fake:pool/none 0",
	"$ volume create fake: 1M",
	"$ volume create fake:pool/disk?colour=red 1M",
	"$ volume create mem:x 1M",
	"$ volume create nosuch:x 1M",
	"$ volume create fake:pool/secret?secret=xyzzy&stripe=4 1M",
	"$ volume list fake:pool",
	"$ volume list fake:other",
	"$ volume list mem:",
	"$ volume show fake:pool/disk",
	"$ volume show fake:pool/none",
	"$ target add iqn.2026-11.io.lunar:disk --lun 1=fake:pool/disk --initiator *",
	"$ volume list fake:pool",
	"$ volume show fake:pool/disk",
	"$ snapshot create fake:pool/disk one",
	"$ snapshot create fake:pool/disk one",
	"$ snapshot create fake:pool/disk ../one",
	"$ snapshot create fake:pool/none one",
	"$ snapshot create fake:pool/disk two",
	"$ snapshot list fake:pool/disk",
	"$ clone create fake:pool/disk fake:pool/clone --snapshot one",
	"$ clone create fake:pool/disk fake:pool/clone --snapshot one",
	"$ clone create fake:pool/disk fake:pool/clone2 --snapshot three",
	"$ clone create fake:pool/disk fake:pool/clone2",
	"$ clone create fake:pool/disk fake:pool/disk --snapshot one",
	"$ clone create fake:pool/disk mem:x --snapshot one",
	"$ lun add 1 2 fake:pool/clone",
	"$ snapshot delete fake:pool/disk one",
	"$ clone flatten fake:pool/clone",
	"$ snapshot delete fake:pool/disk one",
	"$ snapshot delete fake:pool/disk one",
	"$ snapshot delete fake:pool/disk one --missing-ok",
	"$ volume resize fake:pool/disk 2M",
	"$ volume resize fake:pool/disk +1M",
	"$ lun list",
	"$ volume resize fake:pool/disk 1M",
	"$ volume resize fake:pool/secret +1M",
	"$ volume resize fake:pool/secret 1M",
	"$ volume resize fake:pool/secret 1M --force",
	"$ snapshot rollback fake:pool/disk two",
	"$ snapshot rollback fake:pool/disk two --force",
	"$ volume delete fake:pool/disk",
	"$ lun remove 1 1",
	"$ snapshot rollback fake:pool/disk two --force",
	"$ snapshot rollback fake:pool/disk none --force",
	"$ volume show fake:pool/disk",
	"$ volume delete fake:pool/disk",
	"$ snapshot delete fake:pool/disk two",
	"$ volume delete fake:pool/disk",
	"$ volume delete fake:pool/disk",
	"$ volume delete fake:pool/disk --missing-ok",
	"$ volume trash fake:",
	"$ volume restore fake: id1",
	"$ volume restore fake: id1",
	"$ volume delete fake:pool/disk --purge",
	"$ volume delete fake:pool/disk --purge --force",
	"$ volume delete fake:pool/secret",
	"$ volume restore fake:pool/clone id2",
	"$ volume purge fake: id2",
	"$ volume purge fake: id2 --force",
	"$ volume purge fake: id2 --force",
	"$ volume purge fake: id2 --force --missing-ok",
	"$ volume list fake:",
}

// TestVolumeScript runs the tour, and compares everything that is written with its file.
func TestVolumeScript(t *testing.T) {
	r := newRig(t)
	golden(t, "volumes.txt", r.script(volumeScript, nil))
	if w := r.engine.Wrongs(); w != nil {
		t.Error(w)
	}
}

// TestVolumeProgress: on a terminal a bar shows how far work is.
func TestVolumeProgress(t *testing.T) {
	user, program := terminal(t)
	r := newRig(t)
	r.ok("volume create fake:a 1M")
	at := r.engine.Stop("snapshot")
	done := make(chan int, 1)
	var out bytes.Buffer
	go func() {
		done <- run(r.ctx(), []string{"--server", r.server, "snapshot", "create", "fake:a", "s"}, strings.NewReader(""), &out, program)
	}()
	user.SetReadDeadline(time.Now().Add(testTime))
	var seen strings.Builder
	until := func(text string) {
		t.Helper()
		b := make([]byte, 1)
		for !strings.Contains(seen.String(), text) {
			if _, err := user.Read(b); err != nil {
				t.Fatalf("%v after %q", err, seen.String())
			}
			seen.Write(b)
		}
	}
	<-at.Reached
	until("[##########..........] 50 %")
	close(at.Go)
	if status := <-done; status != 0 || out.String() != "fake:a: snapshot s taken\n" {
		t.Errorf("%d, %q", status, out.String())
	}
	until("\r\x1b[K")
}

// TestVolumeInterrupted: an interrupt cancels what goes on, which the daemon undoes.
func TestVolumeInterrupted(t *testing.T) {
	r := newRig(t)
	r.ok("volume create fake:a 1M")
	before := r.engine.Words()
	at := r.engine.Stop("create")
	ctx, cancel := context.WithCancel(r.ctx())
	var errOut bytes.Buffer
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"--server", r.server, "volume", "create", "fake:b", "1M"}, strings.NewReader(""), &bytes.Buffer{}, &errOut)
	}()
	<-at.Reached
	cancel()
	if status := <-done; status != exitFailed || !strings.Contains(errOut.String(), "interrupted") {
		t.Errorf("%d, %q", status, errOut.String())
	}
	if now := r.engine.Until(r.ctx(), before); now != before {
		t.Errorf("it was not undone:\n%s\nwas\n%s", now, before)
	}
}

// TestVolumeFailures: what an engine answers comes through, with the right status.
func TestVolumeFailures(t *testing.T) {
	r := newRig(t)
	r.ok("volume create fake:a 1M")
	for class, want := range map[backstore.Class]int{backstore.ClassOffline: exitFailed, backstore.ClassNotFound: exitNotFound, backstore.ClassBusy: exitRefused, backstore.ClassTimeout: exitTimeout, backstore.ClassNoSpace: exitFailed} {
		r.engine.Fail("flatten", &backstore.Error{Class: class, Op: "flatten", Cause: context.DeadlineExceeded})
		if status, _, errOut := r.run("", "clone", "flatten", "fake:a"); status != want || !strings.Contains(errOut, class.String()) {
			t.Errorf("%v: exits with %d, want %d: %s", class, status, want, errOut)
		}
	}
}

// TestVolumeCompletion: the volumes of LUNs, snapshots, deleted volumes, and the beginnings of URIs are completed.
func TestVolumeCompletion(t *testing.T) {
	r := newRig(t)
	r.ok("volume create fake:a 1M")
	r.ok("snapshot create fake:a before")
	r.ok("volume create fake:b 1M")
	r.ok("volume delete fake:b")
	r.ok("target add " + disk + " --lun 3=fake:a")
	for line, want := range map[string]string{
		"snapshot create ": "fake:a\tLUN 3 of " + disk, "snapshot delete fake:a ": "before\t", "snapshot rollback fake:a ": "before\t", "clone create fake:a fake:c --snapshot ": "before\t",
		"volume create ": "fake:\tfake:NAME", "volume restore fake: ": "id1\tb, 1 MiB", "volume purge fake: ": "id1\tb", "volume delete ": "fake:a\t",
	} {
		_, out, _ := r.run("", append([]string{"__complete"}, append(strings.Fields(line), "")...)...)
		if !strings.Contains("\n"+out, "\n"+want) || strings.Contains(out, ":0\n") {
			t.Errorf("%s: %q, want %q", line, out, want)
		}
	}
}

// TestVolumeJSON: for programs there is one JSON value, with numbers, and options whole.
func TestVolumeJSON(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct{ line, want string }{
		{"volume create fake:a?secret=x 1M", `"existed": false`}, {"volume list fake:", `"size": 1048576`}, {"volume show fake:a", `"used": null`}, {"snapshot create fake:a s", `"missing": false`},
		{"snapshot list fake:a", `"clones": 0`}, {"clone create fake:a fake:b --snapshot s", `"parent": "a@s"`}, {"volume delete fake:b", `"done"`}, {"volume trash fake:", `"id": "id1"`},
		{"volume restore fake: id1", `"uri": "fake:b"`}, {"volume resize fake:b 2M", `"size": 2097152`}, {"store list", `"can": [`},
	} {
		if out := r.ok(c.line + " --json"); !strings.Contains(out, c.want) || !json.Valid([]byte(out)) {
			t.Errorf("%s: %s", c.line, out)
		}
	}
}

// TestProgressLines: where nobody watches, a line tells how far it is, not more often than it should.
func TestProgressLines(t *testing.T) {
	var errOut bytes.Buffer
	cmd := &cobra.Command{}
	cmd.SetErr(&errOut)
	f := &far{cmd: cmd, what: "cloning x", lines: true, told: time.Now().Add(-2 * progressLines)}
	for i := range int64(3) {
		f.tell(&api.VolumeProgress{Done: 25 + i, Total: 100})
	}
	if errOut.String() != "cloning x: 25 %\n" {
		t.Errorf("%q", errOut.String())
	}
	for want, p := range map[string]*api.VolumeProgress{"": {Done: 7}, "[#####...............] 25 %": {Done: 1, Total: 4}, "[####################] 100 %": {Done: 9, Total: 4}, "[....................] 0 %": {Done: -1, Total: 4}} {
		f.told = time.Now()
		if f.tell(p); f.String() != want {
			t.Errorf("%v is %q", p, f)
		}
	}
}
