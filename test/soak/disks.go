package main

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/test/daemon"
	"github.com/lunar-iscsi/lunar/test/history"
)

const diskBytes = 4 << 20

// extent is a run of blocks.
type extent struct{ off, len uint64 }

// A volume is what a disk shows: one history, however many disks show it.
type volume struct {
	path      string
	options   string // of its URI
	rules     string // of the faulty store around it; empty: none
	blockSize uint64
	other     func(*volume) string // replaces its URI, for tests of the soak itself
	trap      extent
	h         *history.History

	mu     sync.Mutex
	active int       // functions under way that take other initiators' tasks away; guarded by mu
	last   time.Time // when the last of them ended; guarded by mu
}

// disturb notes a function that may take away tasks of everybody, and returns what notes its end.
func (v *volume) disturb() (over func()) {
	v.mu.Lock()
	v.active++
	v.mu.Unlock()
	return func() {
		v.mu.Lock()
		v.active--
		v.last = time.Now()
		v.mu.Unlock()
	}
}

// disturbed reports whether such a function may have met a task that was sent at the given time.
func (v *volume) disturbed(since time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.active > 0 || v.last.After(since)
}

// A disk is a volume at a LUN.
type disk struct {
	*volume
	lun    sam.LUN
	number int
	blocks uint64
}

// Rules of the stores with faults. The first that fits a request decides, so those for one operation are kept apart by range. A failed
// flush or write with FUA would make a store refuse all writes until it is opened anew: these only wait.
const (
	slowRules = "write delay=7ms every=5; read delay=5ms every=4; flush delay=20ms every=2; zeroes delay=10ms every=3; any pending every=2"
	badRules  = "write fua pending; flush pending; zeroes fua pending; discard fua pending; " +
		"write error=medium every=23 off=0 len=24K; write error=timeout every=19 off=24K len=1M; write error=offline every=17; " +
		"read error=medium every=43 off=0 len=24K; read error=transport every=37; zeroes error=nospace every=7; discard error=cancelled every=5"
	trapRules = "write hang every=5 off=64K len=16K; write delay=400ms every=61; read delay=200ms every=67"
)

// trapRange is the range of trapRules, bytes.
var trapRange = extent{64 << 10, 16 << 10}

// A layout is what lunard serves.
type layout struct {
	targets [][]*disk
	volumes []*volume
}

// newLayout makes as many targets as asked, by turns of one kind and the other. hang puts a store that hangs among them.
func newLayout(seed uint64, dir string, targets int, direct, hang bool) *layout {
	l := &layout{}
	add := func(name, options, rules string, blockSize uint64, trap extent) *volume {
		v := &volume{path: filepath.Join(dir, name+".img"), options: options, rules: rules, blockSize: blockSize,
			trap: extent{trap.off / blockSize, trap.len / blockSize},
			h:    history.New(history.Config{Seed: seed<<8 | uint64(len(l.volumes)), Blocks: diskBytes / blockSize, BlockSize: int(blockSize)})}
		l.volumes = append(l.volumes, v)
		return v
	}
	options := ""
	if direct {
		options = "direct=on"
	}
	for t := range targets {
		var vs []*volume
		if t%2 == 0 {
			vs = []*volume{add(fmt.Sprintf("t%d-plain", t), "", "", 512, extent{}), add(fmt.Sprintf("t%d-direct", t), options, "", 512, extent{}),
				add(fmt.Sprintf("t%d-slow", t), "", slowRules, 4096, extent{})}
		} else {
			vs = []*volume{add(fmt.Sprintf("t%d-bad", t), "", badRules, 512, extent{}), l.targets[t-1][0].volume}
			if hang {
				vs = append(vs, add(fmt.Sprintf("t%d-trap", t), "", trapRules, 512, trapRange))
			}
		}
		var ds []*disk
		for i, v := range vs {
			ds = append(ds, &disk{volume: v, lun: sam.NewLUN(uint16(i + 1)), number: i + 1, blocks: diskBytes / v.blockSize})
		}
		l.targets = append(l.targets, ds)
	}
	return l
}

func targetName(t int) string { return fmt.Sprintf("soak%d", t) }

// args are lunard's.
func (l *layout) args() []string {
	var args []string
	for t, ds := range l.targets {
		for _, d := range ds {
			args = append(args, daemon.ExportLUN(targetName(t), d.number, d.uri()))
		}
	}
	return args
}

func (v *volume) uri() string {
	if v.other != nil {
		return v.other(v)
	}
	q := url.Values{"size": {fmt.Sprint(diskBytes)}}
	if v.options != "" {
		q.Set("direct", "on")
	}
	if v.rules == "" {
		return fmt.Sprintf("%s&blocksize=%d", daemon.FileURI(v.path, q.Encode()), v.blockSize)
	}
	outer := url.Values{"inner": {daemon.FileURI(v.path, q.Encode())}, "rule": {v.rules}}
	// A blank is %20 in the URI of a volume.
	return fmt.Sprintf("faulty:?%s&blocksize=%d", strings.ReplaceAll(outer.Encode(), "+", "%20"), v.blockSize)
}
