//go:build e2e

package lifecycle

// killRounds is how often TestAcknowledgedSurvivesKill kills the daemon.
const killRounds = 100
