package load

import (
	"fmt"
	"runtime"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

// Bounds and defaults of a run.
const (
	MaxDepth       = 4096
	MaxConnections = 65536
	// MaxBlockSize is the longest command, which is also what a pattern buffer takes.
	MaxBlockSize = 16 << 20
	// DefaultOpenDepth is how many commands an open loop keeps in flight at most where the Config says nothing.
	DefaultOpenDepth = 512
	// DefaultStall is how long a run goes on without one command ending.
	DefaultStall = 30 * time.Second
	// fillSize is the length of the writes that fill a volume, at most.
	fillSize  = 256 << 10
	fillDepth = 8
)

// A Config says what a run does. The zero value of each field is its default where one is named.
type Config struct {
	Options initiator.Options // portal, target, negotiation; Depth and ISID are set by Run
	LUN     sam.LUN

	BlockSize   int     // bytes of one command, a multiple of the volume's block
	Depth       int     // commands in flight a connection; open loop: at most that many, DefaultOpenDepth
	Rate        float64 // open loop: commands a second over all connections; 0: closed loop
	ReadPercent int     // 0-100
	FUAPercent  int     // of the writes, 0-100, have FUA set
	FlushEvery  int     // a SYNCHRONIZE CACHE after so many writes of a worker; 0: none. It counts as a write without bytes
	Sequential  bool
	Connections int // sessions; 1
	Threads     int // goroutines that drive them; the smaller of Connections and the CPUs

	Fill   bool // write the pattern to the whole region first
	Verify int  // check the content of one read in so many; 0: none

	Offset, Size int64 // the region in bytes; Size 0: up to the volume's end

	Warmup   time.Duration // load that is not counted
	Duration time.Duration // load that is; 0 with Fill: nothing but that
	Seed     uint64        // of offsets, of the mix and of the arrivals
	Stall    time.Duration // DefaultStall

	// Progress, if set, is called about once a second from a goroutine of its own.
	Progress func(Progress)
}

// Progress is how far a run is.
type Progress struct {
	Phase   string // "fill", "warm-up", "run"
	Elapsed time.Duration
	Total   time.Duration // 0 for a fill
	IOPS    float64       // over the time since the last call
	MBps    float64       // 10^6 bytes a second over the same time
	Errors  uint64
	Done    float64 // share of the phase, 0 to 1
}

// Check completes c with its defaults and reports the first thing wrong with it.
func (c *Config) Check() error {
	if c.Connections == 0 {
		c.Connections = 1
	}
	if c.Depth == 0 {
		c.Depth = 1
		if c.Rate > 0 {
			c.Depth = DefaultOpenDepth
		}
	}
	if c.Threads == 0 {
		c.Threads = min(c.Connections, runtime.NumCPU())
	}
	if c.Stall == 0 {
		c.Stall = DefaultStall
	}
	switch {
	case c.BlockSize <= 0 || c.BlockSize > MaxBlockSize || c.BlockSize%blockSize != 0:
		return fmt.Errorf("block size %d is not a multiple of 512 up to %d", c.BlockSize, MaxBlockSize)
	case c.Depth < 0 || c.Depth > MaxDepth:
		return fmt.Errorf("depth %d is not within 1-%d", c.Depth, MaxDepth)
	case !(c.Rate >= 0 && c.Rate <= 1e9):
		return fmt.Errorf("rate %v is not within 0-10^9 a second", c.Rate)
	case c.ReadPercent < 0 || c.ReadPercent > 100:
		return fmt.Errorf("read percentage %d is not within 0-100", c.ReadPercent)
	case c.FUAPercent < 0 || c.FUAPercent > 100:
		return fmt.Errorf("FUA percentage %d is not within 0-100", c.FUAPercent)
	case c.FlushEvery < 0:
		return fmt.Errorf("a flush every %d writes", c.FlushEvery)
	case c.Connections < 0 || c.Connections > MaxConnections:
		return fmt.Errorf("%d connections are not within 1-%d", c.Connections, MaxConnections)
	case c.Threads < 0 || c.Threads > c.Connections:
		return fmt.Errorf("%d threads are not within 1-%d, the connections", c.Threads, c.Connections)
	case c.Verify < 0:
		return fmt.Errorf("verify %d is negative", c.Verify)
	case c.Offset < 0 || c.Size < 0:
		return fmt.Errorf("region %d+%d is negative", c.Offset, c.Size)
	case c.Duration < 0 || c.Warmup < 0 || c.Duration == 0 && !c.Fill:
		return fmt.Errorf("a run of %v after %v does nothing", c.Duration, c.Warmup)
	}
	return nil
}
