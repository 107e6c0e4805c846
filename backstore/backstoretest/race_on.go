//go:build race

package backstoretest

// raceDetector: the detector allocates on its own account, so allocations are not counted.
const raceDetector = true
