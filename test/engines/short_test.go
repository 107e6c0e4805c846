//go:build !e2e

package engines

func longEngines() []Engine { return nil }
func longSuites() []suite   { return nil }
