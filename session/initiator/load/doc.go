// Package load puts a disk under load and measures it: closed loop (so many commands in flight) or open loop (so many a second, arriving as
// a Poisson process, timed from when they should have started), random or sequential, reads mixed with writes, over one or many sessions,
// with the content of some reads checked against a pattern.
//
// It knows the initiator's Queue and nothing of whose target it talks to, and prints nothing: Run takes a Config and returns
// a Report. Each worker is one goroutine locked to its thread, with its sessions, its random numbers and its histograms; workers share only
// the counters that progress is read from.
//
//	r, err := load.Run(ctx, load.Config{Options: o, LUN: sam.NewLUN(1), BlockSize: 4096, Depth: 32, ReadPercent: 100, Duration: 10 * time.Second})
//	if err != nil {
//		return err
//	}
//	r.WriteText(os.Stdout)
//
// It promises nothing to programs outside this module.
package load
