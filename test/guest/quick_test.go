//go:build !e2e

package guest

// How long, and how often, the tests under load go on in `make test`.
const (
	loadSeconds = 5
	kills       = 1
)
