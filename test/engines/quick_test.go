package engines

// quickEngines are those of `make test`.
func quickEngines() []Engine {
	return []Engine{fileEngine(), nbdkitEngine(), curveEngine(), gotgtEngine()}
}

// quickSuites are what takes seconds. The faults come last: they may leave an engine limping.
func quickSuites() []suite {
	return []suite{{"convert", convert}, {"grow", grow}, {"snapshots", snapshots}, {"faults", faults}}
}
