//go:build rbd && cgo

package rbd

import (
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

// TestSuite runs the suite that every driver passes, with each kind of cache.
func TestSuite(t *testing.T) {
	for _, options := range []string{"", "cache=writethrough", "cache=writeback", "shared", "inflight=16"} {
		name := options
		if name == "" {
			name = "plain"
		}
		t.Run(name, func(t *testing.T) {
			c := start(t)
			var last string
			reopen := func(t *testing.T) backstore.Store { return mustOpen(t, c.uri(last, options), backstore.Options{}) }
			backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
				last = c.create(t, size)
				return reopen(t)
			}, backstoretest.Options{Reopen: reopen, OpenReadOnly: func(t *testing.T, size int64) backstore.Store {
				return mustOpen(t, c.uri(c.create(t, size), options), backstore.Options{ReadOnly: true})
			}})
		})
	}
}
