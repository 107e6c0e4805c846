package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func smoke(t *testing.T) config {
	seed := uint64(time.Now().UnixNano()) & 0xffffffff
	t.Logf("seed %d", seed)
	return config{seed: seed, time: 7 * time.Second, initiators: 6, targets: 2, restart: 2 * time.Second, dir: t.TempDir()}
}

// A soak of a few seconds, with drains and kills; make soak has the long one.
func TestSmoke(t *testing.T) {
	c := smoke(t)
	var out bytes.Buffer
	if err := soak(t.Context(), c, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	t.Logf("%s", &out)
}

// A disk that drops what is written is found out, with the history of the block, unless a WRITE AND VERIFY sees it first.
func TestFindsLostWrites(t *testing.T) {
	c := smoke(t)
	c.restart = 0
	c.uri = func(v *volume) string { return fmt.Sprintf("null:?size=%d&blocksize=%d", diskBytes, v.blockSize) }
	for range 20 {
		err := soak(t.Context(), c, &bytes.Buffer{})
		switch {
		case err == nil:
			t.Fatal("a disk of nothing passes")
		case strings.Contains(err.Error(), "history of block") && strings.Contains(err.Error(), "WRITE"):
			return
		case !strings.Contains(err.Error(), "VERIFY"):
			t.Fatal(err)
		}
		c.seed++
	}
	t.Fatal("only WRITE AND VERIFY finds something wrong with a disk of nothing")
}

// What is done follows from the seed alone, and every kind of step and command is drawn.
func TestPlan(t *testing.T) {
	l := newLayout(1, t.TempDir(), 2, true, true)
	draw := func(seed uint64, worker uint32) (list []string, steps [stepKinds]int, cmds [cmdKinds]int) {
		p := newPlan(seed, worker, l.targets[1], 8)
		for range 4000 {
			s := p.next()
			list = append(list, s.String())
			steps[s.kind]++
			for _, c := range s.cmds {
				cmds[c.kind]++
				if d := l.targets[1][c.disk]; c.n == 0 || c.lba+c.n > d.blocks {
					t.Fatalf("%+v on a disk of %d blocks", c, d.blocks)
				}
			}
		}
		return list, steps, cmds
	}
	a, steps, cmds := draw(5, 3)
	if b, _, _ := draw(5, 3); !slices.Equal(a, b) {
		t.Error("one seed, two plans")
	}
	if b, _, _ := draw(5, 2); slices.Equal(a, b) {
		t.Error("two initiators do the same")
	}
	if b, _, _ := draw(6, 3); slices.Equal(a, b) {
		t.Error("two seeds, one plan")
	}
	if slices.Contains(steps[:], 0) || slices.Contains(cmds[:], 0) {
		t.Errorf("drawn: steps %v, commands %v", steps, cmds)
	}
}

func TestFlags(t *testing.T) {
	good := config{initiators: 1, targets: 1, time: time.Second}
	if err := checkFlags(&good, 0); err != nil {
		t.Error(err)
	}
	for _, change := range []func(*config){func(c *config) { c.initiators = 0 }, func(c *config) { c.targets = 101 }, func(c *config) { c.time = 0 }, func(c *config) { c.restart = -1 }} {
		c := good
		change(&c)
		if checkFlags(&c, 0) == nil {
			t.Errorf("accepted: %+v", c)
		}
	}
	if checkFlags(&good, 1) == nil {
		t.Error("an argument was accepted")
	}
}
