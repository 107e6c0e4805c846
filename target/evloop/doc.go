// Package evloop is the event loop that a target runs on: epoll, wake-up, timers, parking, the loop's
// lock, and pools of buffers. It knows descriptors, bytes and time; it must not know iSCSI, SCSI or
// stores, and imports nothing of this module. It is for Linux (epoll_pwait2 where there is one).
//
//	g, err := evloop.NewGroup()
//	l, err := g.NewLoop(evloop.Config{Name: "disk1"}, handler)
//	l.Lock()
//	c.id, err = l.Add(c.fd, c, evloop.Readable)
//	l.SetTimer(&c.keepalive, g.Clock()+int64(5*time.Second))
//	l.Unlock()
//	…
//	l.Close()
//	g.Close()
//
// # Who owns what
//
// A Loop is one goroutine, one epoll set, one eventfd, one heap of timers and one lock. "On the loop"
// means: in a call of Pollable.Ready, Timer.F or Handler, which come one at a time with the lock held.
// Mostly they come from the loop's goroutine; the first one after a while from the group's (see below), so
// nothing may hang on the goroutine's identity. They must not block, and must not call Lock, Stats or Close
// of their own loop.
//
// Everybody else takes Lock. It may call Add, Modify, Remove, Poke, SetTimer and StopTimer then, and change
// what the Pollables own. Wake, Group.Clock and the methods of Budget need no lock at all. Unlock does
// not wake the loop; SetTimer and Poke do where it is needed, Add leaves it to epoll, and for
// everything else there is Wake.
//
// A descriptor is its Pollable's: the loop never closes it, and Remove comes before its close. The ID that
// Add gave is what epoll carries, never a pointer: after Remove an event that was already fetched finds
// nothing. A Timer is embedded in what it times. A Buf belongs to whoever got it until Put; a Pool belongs
// to its loop, a Budget to the process.
//
// Group.Close closes what loops are left; Loop.Close ends the loop's goroutine and closes its own two
// descriptors. Afterwards Wake does nothing, Add fails with ErrClosed, and Remove still works.
//
// # A turn
//
// With the lock held: Woken if somebody called Wake; the timers that are due; then the queue of
// descriptors, each once, in the order in which they came, until the turn's budget (Config.MaxTurnWork,
// Config.MaxTurn; counted by Spend) is used up; then EndTurn. In the queue are those that epoll reported,
// those that returned more, those that were poked, and as a guess those that were readable and made
// progress (called Spend) in the last turn: their own read finds EAGAIN cheaper than epoll says so. epoll is
// asked, without waiting, when the queue is empty or had nothing, and at least once every MaxTurn so that
// busy descriptors do not shut out the others. Then the lock is let go. If somebody waits for it, the loop
// stands back until they have had it (16 times at most); after 1 ms without a wait it calls
// runtime.Gosched.
//
// A turn in which nothing at all happened, epoll having been asked, is followed by a sleep: a blocking
// epoll_pwait2 of BlockFor if the loop is warm, that is if the last sleep was ended by an event and was
// shorter than BlockFor; else, or when that brought nothing, the loop parks.
//
// # Parking
//
// A parked loop's goroutine waits on a channel; its epoll descriptor is armed (EPOLLONESHOT) in the
// group's epoll, its next deadline is in the group's heap, and one goroutine, in one thread, waits for all of
// them. When an event or a deadline comes to a loop that parked more than BlockFor ago, the group's
// goroutine takes the loop's lock, if it is free, runs one turn, and parks the loop again. What comes
// sooner, or leaves more to do, or finds the lock taken, wakes the loop's goroutine; so does Wake. A turn
// that the group's goroutine runs delays the first event of other parked loops by MaxTurn at most.
//
// # What was measured
//
// On 2 cores of a virtual machine (AMD EPYC, Linux 6.18, Go 1.26.8), clients in processes of their own on
// the same 2 cores; times in µs, ranges over 2 to 5 runs of 300 or
// 500 samples. `go test -run '^$' -bench
// BenchmarkWaiting -benchtime 500x` shows it on another machine. lock: an admin goroutine's Lock of a hot
// loop; plain: the same as an uncounted mutex; call: an admin call over TCP through package net that takes
// this lock; first: the first request to a parked loop; ops: 48 byte requests with 4 KiB answers, all
// loops together, at depth 32 a loop.
//
//	hot loops, GOMAXPROCS  lock p50, p99     plain p99   call p50, p99        first p50, p99       ops/s, CPU
//	0, 4                   0.3-0.5, 12-56                135-166, 375-820     137-175, 361-1046
//	1, 4                   0.4-0.5, 118-150  1000-1130   100-120, 506-1242    103-114, 406-818     0.42-0.53M, 1.1-1.4
//	2, 4                   0.2-0.4, 119-394  616-1114    74-150, 362-1004     62-112, 375-759      0.81-1.25M, 0.7-1.0
//	3, 5                   0.2-0.3, 221-241  531-894     91-92, 716-747       83-97, 643-702       1.26-1.27M, 0.8
//	3, 4                   0.2-0.3, 172-410  678-1485    95-148, 3742-6397    77-118, 474-2297     0.94-1.24M, 0.8
//	1, 2                   0.3, 109                      135, 14111           100, 2567            0.47M, 1.3
//	2, 2                   0.3, 223                      964, 14297           88, 9285             1.15M, 0.8
//	3, 2                   0.3, 5040                     2447, 20863          131, 12501           1.17M, 0.8
//
// (The last three are one run each.) Hence RecommendedProcs: two Ps beside the hot loops. These runs are
// from before the group's goroutine ran turns of parked loops, which only shortens the way of the first
// request. With two to six times as much other work as the machine has cores, medians stay what they
// are and the 99th percentiles go to 1-30 ms for calls and first requests, 0.2-2.4 ms for the lock.
//
// A loop that never sleeps (BenchmarkSaturatedLock, turns of 200 µs): lock at most 90 at the median and, beside
// one such loop, 200-206 at p99; plain 85-270 and 1250-5230. Three such loops on 2 cores: 8 ms at p99 either
// way, which is the kernel's time slice: it takes the CPU from a loop in the middle of its turn.
//
// One request at a time (BenchmarkDepth1, on a busy machine, 5 runs): median 17.6, CPU 11.1-12.8 a request;
// a bare goroutine that reads, writes and waits in epoll: 16.8 and 10.8-12.8. Config.Spin of 50 µs adds
// a third to the CPU and gains nothing where client and server share two cores. The guess that a descriptor has more
// to read costs 0.5 µs here and saves a fifth of the CPU (0.79 for 0.98 µs an operation) beside two hot
// loops at depth 32.
//
// 1,000 idle loops with a timer every 5 s (BenchmarkIdle): 6-7 threads in the process, 2 KiB a loop of
// resident memory, and when the timers fall on different moments 0.5 % of a core; 2.2 % when each woke the
// loop's goroutine, where a wake-up of an otherwise idle process costs about 100 µs of CPU. All at one
// moment: 0.03 %. 2,000 pings a second over 500 idle loops (BenchmarkIdlePings): 21-36 µs of CPU each, with
// the network's share, on a busy machine; there it makes no difference whether each wakes its goroutine.
//
// Itself, a turn with one descriptor costs 43 ns, Spend 5, Wake of a loop that is awake 2, moving a timer
// among a hundred 43, Get and Put of a buffer 7; none of them allocates.
//
// It promises nothing to programs outside this module.
package evloop
