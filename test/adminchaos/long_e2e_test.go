//go:build e2e

package adminchaos

// How long TestChaos goes on: the daemon's lives, and the calls that each administrator makes in each of them.
const (
	lives = 40
	calls = 400
)
