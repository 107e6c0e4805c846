package target

import "sync"

// discoveryTSIH is the handle of every discovery session: nothing refers to one by it.
const discoveryTSIH = 0xffff

// tsihs gives out the handles of normal sessions: 1, 2, 3, …, of all targets together, as tgtd counts what its tools call sid. A
// handle is used again after all others have been: whoever still means the old session by it is not likely to meet another.
type tsihs struct {
	mu   sync.Mutex
	last uint16              // guarded by mu
	used map[uint16]struct{} // guarded by mu
}

// take returns a handle that nobody has; false: there is none.
func (h *tsihs) take() (uint16, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for range discoveryTSIH - 1 {
		if h.last++; h.last == discoveryTSIH {
			h.last = 1
		}
		if _, used := h.used[h.last]; !used {
			if h.used == nil {
				h.used = map[uint16]struct{}{}
			}
			h.used[h.last] = struct{}{}
			return h.last, true
		}
	}
	return 0, false
}

func (h *tsihs) give(n uint16) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.used, n)
}
