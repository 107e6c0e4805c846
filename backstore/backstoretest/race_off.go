//go:build !race

package backstoretest

const raceDetector = false
