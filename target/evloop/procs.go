package evloop

import "runtime"

// sparePs are the Ps beyond one for each hot loop: one that the parking thread's wait may hold until the
// runtime takes it back, and one for everybody else. With one only, an admin call beside three hot loops took
// 3.7-6.4 ms at p99, with two 0.7 ms; more did not help.
const sparePs = 2

// RecommendedProcs is the GOMAXPROCS that suits so many loops under load at once: two more than there are
// hot loops, and at least two more than the machine has CPUs. A hot loop seldom gives up its P; with a P
// to spare the kernel does the sharing, and whoever must run next (an admin call, the parking thread,
// another loop) finds a P at once.
func RecommendedProcs(hotLoops int) int {
	return max(hotLoops, runtime.NumCPU()) + sparePs
}

// SetProcs sets GOMAXPROCS to RecommendedProcs(hotLoops) if it is lower, and returns what it is then. It
// stops the world for some tens of microseconds where it changes something. It is for the program that
// owns the process; nothing in this package calls it.
func SetProcs(hotLoops int) int {
	want := RecommendedProcs(hotLoops)
	if have := runtime.GOMAXPROCS(0); have >= want {
		return have
	}
	runtime.GOMAXPROCS(want)
	return want
}
