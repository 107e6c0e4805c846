//go:build e2e

package hostile

import (
	"testing"
	"time"
)

func TestThousandNeverLogIn(t *testing.T) { neverLogIn(t, 1000, 400, 5*time.Second) }

func TestHundredsAreGreedy(t *testing.T) { greedy(t, 800) }
