package rpc

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// sub is a message within another.
func (m message) sub(n protowire.Number, b message) message {
	return protowire.AppendBytes(protowire.AppendTag(m, n, protowire.BytesType), b)
}

func TestVolume(t *testing.T) {
	v, err := volumeOf(message(nil).text(1, "pvc-1").number(2, 1<<40).number(3, 2).text(4, "/run/s").text(5, "socket").text(6, "up").number(7, 1).text(8, "no").
		number(11, 250).text(99, "of a later version"))
	if want := (Volume{"pvc-1", 1 << 40, 2, "/run/s", "socket", "up", true, "no"}); err != nil || v != want {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := volumeOf(message(nil).number(2, -1)); err == nil {
		t.Error("a negative size")
	}
	// A field of another type than it should be is not taken for what it is not.
	if v, err := volumeOf(message(nil).number(1, 7).text(2, "9")); err != nil || v.Name != "" || v.Size != 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestReplicas(t *testing.T) {
	one := func(addr string, mode int64) message {
		return message(nil).sub(1, message(nil).text(1, addr).text(2, "instance")).number(2, mode)
	}
	list, err := replicasOf(message(nil).sub(1, one("tcp://10.0.0.1:10000", 1)).sub(1, one("10.0.0.2:10000", 2)).sub(1, one("", 0)))
	if err != nil || len(list) != 3 || list[0] != (Replica{"10.0.0.1:10000", ReadWrite}) || list[1] != (Replica{"10.0.0.2:10000", Failed}) || list[2].Mode != WriteOnly {
		t.Errorf("%+v, %v", list, err)
	}
	var many message
	for range maxReplicas + 1 {
		many = many.sub(1, one("a:1", 1))
	}
	if _, err := replicasOf(many); err == nil || !strings.Contains(err.Error(), "more than 64") {
		t.Errorf("%v", err)
	}
}

func TestChain(t *testing.T) {
	disk := func(name, parent, created, size string, removed, user int64) message {
		return message(nil).text(1, name).sub(2, message(nil).text(1, name).text(2, parent).number(4, removed).number(5, user).text(6, created).text(7, size))
	}
	ch, err := chainOf(message(nil).sub(1, message(nil).number(2, 1).text(3, "volume-head-001.img").text(5, "1073741824").text(8, "dirty").
		sub(10, disk("volume-snap-a.img", "", "2026-11-27T01:02:03Z", "4096", 0, 1)).sub(10, disk("volume-head-001.img", "volume-snap-a.img", "not told", "0", 1, 0))))
	if err != nil || ch.Size != 1<<30 || ch.Head != "volume-head-001.img" || !ch.Rebuilding || len(ch.Disks) != 2 {
		t.Fatalf("%+v, %v", ch, err)
	}
	if a := ch.Disks["volume-snap-a.img"]; !a.User || a.Removed || a.Size != 4096 || !a.Created.Equal(time.Date(2026, 11, 27, 1, 2, 3, 0, time.UTC)) {
		t.Errorf("%+v", a)
	}
	if h := ch.Disks["volume-head-001.img"]; h.User || !h.Removed || h.Parent != "volume-snap-a.img" || !h.Created.IsZero() {
		t.Errorf("%+v", h)
	}
	if _, err := chainOf(message(nil).sub(1, message(nil).text(5, "much"))); err == nil {
		t.Error("a size that is none")
	}
	var many message
	for i := range maxSnapshots + 1 {
		many = many.sub(10, disk(strings.Repeat("x", i%7)+time.Duration(i).String(), "", "", "", 0, 0))
	}
	if _, err := chainOf(message(nil).sub(1, many)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("%v", err)
	}
}

func TestAgentOf(t *testing.T) {
	for addr, want := range map[string]string{"10.0.0.1:10000": "10.0.0.1:10002", "[::1]:1": "[::1]:3"} {
		if got, err := AgentOf(addr); err != nil || got != want {
			t.Errorf("%s: %s, %v", addr, got, err)
		}
	}
	for _, addr := range []string{"", "host", "host:0", "host:65534", "host:x"} {
		if got, err := AgentOf(addr); err == nil {
			t.Errorf("%s: %s", addr, got)
		}
	}
}

// FuzzAnswers takes what a hostile server may answer. Nothing may panic, and nothing grows beyond its bounds.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(message(nil).text(1, "pvc-1").number(2, 1<<40)))
	f.Add([]byte(message(nil).sub(1, message(nil).sub(1, message(nil).text(1, "tcp://a:1")).number(2, 1))))
	f.Add([]byte(message(nil).sub(1, message(nil).text(5, "1").sub(10, message(nil).text(1, "k").sub(2, message(nil).text(7, "2"))))))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := volumeOf(b)
		if err == nil && v.Size < 0 {
			t.Errorf("size %d", v.Size)
		}
		if list, err := replicasOf(b); err == nil && len(list) > maxReplicas {
			t.Errorf("%d replicas", len(list))
		}
		if ch, err := chainOf(b); err == nil && len(ch.Disks) > maxSnapshots {
			t.Errorf("%d snapshots", len(ch.Disks))
		}
		_, _ = statusOf(b) // only that it ends
	})
}
