package curve

import (
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

func TestStore(t *testing.T) { suite(t, false) }

// The same with space given back.
func TestStoreDiscards(t *testing.T) { suite(t, true) }

func suite(t *testing.T, discard bool) {
	b := newBench(t, nil)
	var last *config
	backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
		last = b.volume(size)
		last.discard = discard
		st := b.open(last)
		if discard {
			st.info.DiscardGranularity = 4096 // the suite's volumes are smaller than a segment
		}
		return st
	}, backstoretest.Options{
		Reopen: func(t *testing.T) backstore.Store { return b.open(last) },
		OpenReadOnly: func(t *testing.T, size int64) backstore.Store {
			c := b.volume(size)
			c.readOnly = true
			return b.open(c)
		},
		Allocates: true,
	})
	if opens := b.srv.Opens(); len(opens) != 0 {
		t.Errorf("left open: %+v", opens)
	}
}
