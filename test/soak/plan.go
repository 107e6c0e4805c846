package main

import (
	"fmt"
	"math/rand/v2"

	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// A cmdKind is a family of commands.
type cmdKind uint8

const (
	read cmdKind = iota
	write
	writeVerify
	writeSame
	sameZero
	unmap
	compareWrite
	verify
	compareVerify
	flush
	prefetch
	cmdKinds
)

// cmdWeights is how often each is drawn.
var cmdWeights = [cmdKinds]int{read: 40, write: 30, writeVerify: 3, writeSame: 4, sameZero: 3, unmap: 4, compareWrite: 7, verify: 1, compareVerify: 2, flush: 5, prefetch: 1}

// A command is one to be sent, all of it drawn beforehand.
type command struct {
	kind    cmdKind
	disk    int // of the initiator's target
	lba, n  uint64
	fua     bool
	dpo     bool
	variant int // which CDB, and other choices of the kind
	attr    sam.TaskAttribute
}

// A stepKind is what happens to a batch of commands.
type stepKind uint8

const (
	plain      stepKind = iota // its answers are awaited
	abortOne                   // ABORT TASK of one of them
	abortAll                   // ABORT TASK of each
	setFn                      // a function for more than one task
	cut                        // the connection is closed
	reinstate                  // a second login with the same ISID
	relogin                    // logout and login, after the answers
	reserve                    // RESERVE(6) before, RELEASE(6) after
	persistent                 // PERSISTENT RESERVE before and after
	preempt                    // PREEMPT AND ABORT of another initiator
	ping                       // a NOP-Out behind it
	stepKinds
)

var stepWeights = [stepKinds]int{plain: 700, abortOne: 60, abortAll: 20, setFn: 30, cut: 30, reinstate: 25, relogin: 15, reserve: 15, persistent: 15, preempt: 5, ping: 20}

// setFns are the functions of setFn.
var setFns = [...]sam.TMF{sam.AbortTaskSet, sam.AbortTaskSet, sam.LogicalUnitReset, sam.LogicalUnitReset, sam.ClearTaskSet, sam.TargetWarmReset, sam.TargetColdReset,
	sam.ITNexusReset, sam.QueryTaskSet, sam.QueryAsyncEvent}

// A step is what an initiator does next.
type step struct {
	kind  stepKind
	cmds  []command
	disk  int     // of setFn, reserve, persistent and preempt
	fn    sam.TMF // of setFn
	after int     // so many of the answers are awaited before the batch is disturbed
	other uint32  // whom preempt is about
	typ   byte    // of the persistent reservation
}

// A plan draws one initiator's steps: from the seed, the initiator's number and the shapes of the disks alone.
type plan struct {
	rnd        *rand.Rand
	disks      []*disk
	initiators int
}

func newPlan(seed uint64, worker uint32, disks []*disk, initiators int) *plan {
	return &plan{rnd: rand.New(rand.NewPCG(seed, uint64(worker))), disks: disks, initiators: initiators}
}

// weighted draws an index.
func weighted(rnd *rand.Rand, weights []int) int {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	k := rnd.IntN(sum)
	for i, w := range weights {
		if k -= w; k < 0 {
			return i
		}
	}
	return 0
}

// Shapes of the load.
const (
	maxBatch   = 8
	hotBlocks  = 64  // where most commands go
	lockBlocks = 3   // where most COMPARE AND WRITE go
	shortMost  = 8   // blocks of most commands
	longMost   = 600 // blocks of the long ones: several Data-In or R2Ts
)

func (p *plan) next() step {
	r := p.rnd
	s := step{kind: stepKind(weighted(r, stepWeights[:])), disk: r.IntN(len(p.disks)), fn: setFns[r.IntN(len(setFns))]}
	for range 1 + r.IntN(maxBatch) {
		s.cmds = append(s.cmds, p.command())
	}
	s.after = r.IntN(len(s.cmds))
	if r.IntN(2) == 0 {
		s.after = 0
	}
	s.other = uint32(r.IntN(p.initiators))
	s.typ = []byte{1, 3, 5, 6, 7, 8}[r.IntN(6)]
	return s
}

func (p *plan) command() command {
	r := p.rnd
	c := command{kind: cmdKind(weighted(r, cmdWeights[:])), disk: r.IntN(len(p.disks)), fua: r.IntN(6) == 0, dpo: r.IntN(6) == 0, variant: r.IntN(64)}
	d := p.disks[c.disk]
	c.n = 1 + r.Uint64N(shortMost)
	if r.IntN(12) == 0 && c.kind != compareWrite {
		c.n = 1 + r.Uint64N(longMost)
	}
	if r.IntN(10) < 7 {
		c.lba = r.Uint64N(hotBlocks)
	} else {
		c.lba = r.Uint64N(d.blocks)
	}
	if c.kind == compareWrite && r.IntN(2) == 0 {
		c.lba, c.n = r.Uint64N(lockBlocks), 1 // as those who lock by it do: many on one block
	}
	if d.trap.len > 0 && r.IntN(25) == 0 {
		c.lba = d.trap.off + r.Uint64N(d.trap.len)
	}
	c.n = min(c.n, d.blocks/4)
	c.lba = min(c.lba, d.blocks-c.n)
	if d.trap.len > 0 && c.lba < d.trap.off+d.trap.len && d.trap.off < c.lba+c.n {
		// What hangs stays in doubt until lunard ends: it must not be half the disk.
		c.n = min(c.n, shortMost)
	}
	switch r.IntN(16) {
	case 0:
		c.attr = sam.Ordered
	case 1:
		c.attr = sam.HeadOfQueue
	default:
		c.attr = sam.Simple
	}
	return c
}

func (s *step) String() string {
	return fmt.Sprintf("kind %d disk %d fn %v after %d other %d type %d cmds %+v", s.kind, s.disk, s.fn, s.after, s.other, s.typ, s.cmds)
}
