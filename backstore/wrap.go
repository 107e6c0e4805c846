package backstore

// A Wrapper is a store that stands before another and does what that does, and something besides. What a wrapper is itself (Kicker, Attacher,
// Resizer, …) it hands on as it likes; a Snapshotter and a Fencer it need not be: SnapshotterOf and FencerOf find those of the store behind.
type Wrapper interface {
	Store
	// Inner returns the store behind. It is not to be submitted to.
	Inner() Store
}

// SnapshotterOf returns st, or the first store behind it, as a Snapshotter; nil: there is none.
func SnapshotterOf(st Store) Snapshotter { return find[Snapshotter](st) }

// FencerOf returns st, or the first store behind it, as a Fencer; nil: there is none.
func FencerOf(st Store) Fencer { return find[Fencer](st) }

// find returns the first T of st and what is behind it.
func find[T any](st Store) (found T) {
	for st != nil {
		if t, ok := st.(T); ok {
			return t
		}
		w, ok := st.(Wrapper)
		if !ok {
			break
		}
		st = w.Inner()
	}
	return found
}
