package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/initiator"
)

// TestMissingServerIsNamed: what could not be measured stands in the table and says why.
func TestMissingServerIsNamed(t *testing.T) {
	p := initiator.DefaultOffer()
	good := summary{name: lunar, kind: lunar, about: "lunard 1", params: &p, samples: []sample{{IOPS: 100, CPU: 5, P99: 10}}}
	good.summarize()
	good.params = &p
	same := good
	same.name = floor
	r := row{name: "x", title: "a row", goals: []goal{atMost(cpu, 1.3, floor), atLeast(iops, 2, tgtd)}}
	s := newSection(&r, []summary{good, {name: tgtd, kind: tgtd, err: errors.New("not\nfound")}, same})
	rep := report{Sections: []section{s}}
	var md, text strings.Builder
	rep.markdown(&md)
	s.text(&text)
	for _, want := range []string{"tgtd: no figures: not found", "lunar, floor: HeaderDigest=None", "client-bound:", "CPU ≤ 1.3 × floor: 1.00, met",
		"IOPS ≥ 2 × tgtd: open: no figure of tgtd"} {
		for form, got := range map[string]string{"Markdown": md.String(), "terminal": text.String()} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in\n%s", form, want, got)
			}
		}
	}
	if !strings.Contains(md.String(), "| tgtd | missing |") {
		t.Errorf("no line for tgtd in\n%s", md.String())
	}
	b, err := json.Marshal(rep)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), `"error":"not found"`) {
		t.Errorf("the JSON does not say why tgtd is missing: %s", b)
	}
}

// TestTotal: of clients that ran at once throughput adds up, and the worst latency stands for all.
func TestTotal(t *testing.T) {
	s := total([]sample{{IOPS: 10, MBps: 1, Client: 4, Commands: 100, Verified: 1, P50: 5, P99: 50}, {IOPS: 30, MBps: 3, Client: 8, Commands: 300, Verified: 2, P50: 4, P99: 70}})
	if s.IOPS != 40 || s.MBps != 4 || s.Commands != 400 || s.Verified != 3 || s.P50 != 5 || s.P99 != 70 || s.Client != 7 {
		t.Errorf("total %+v", s)
	}
}

// TestClientArgs: what a row says reaches the client.
func TestClientArgs(t *testing.T) {
	c := client{load: workload{block: 1 << 20, depth: 4, sequential: true, initialR2T: true, firstBurst: 64 << 10, fua: 10, flushEvery: 64}, lenient: true, seconds: 2, seed: 3}
	got := strings.Join(c.args(endpoint{"127.0.0.1:1", "iqn.x:y", 1}), " ")
	want := "bench --json --progress=false --warmup 0 --seconds 2 --seed 3 --bs 1048576 --read-percent 0 --connections 1 --max-outstanding-r2t 1 " +
		"--depth 4 --fua-percent 10 --flush-every 64 --first-burst 65536 --sequential --initial-r2t --lenient iscsi://127.0.0.1:1/iqn.x:y/1"
	if got != want {
		t.Errorf("args\n%s\nwant\n%s", got, want)
	}
	own := client{load: workload{block: 4096, rate: 20000, reads: 70, sessions: 8}, defaults: true, digests: true, seconds: 0.5}
	got = strings.Join(own.args(endpoint{"127.0.0.1:1", "iqn.x:y", 0}), " ")
	want = "bench --json --progress=false --warmup 0 --seconds 0.5 --seed 0 --bs 4096 --read-percent 70 --connections 8 --verify=64 --rate 20000 " +
		"--header-digest --data-digest iscsi://127.0.0.1:1/iqn.x:y/0"
	if got != want {
		t.Errorf("args\n%s\nwant\n%s", got, want)
	}
}
