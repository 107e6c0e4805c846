//go:build e2e

package longhorn_test

import (
	"context"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
	driver "github.com/lunar-iscsi/lunar/backstore/longhorn"
	"github.com/lunar-iscsi/lunar/test/longhorn"
)

func open(t testing.TB, uri string) backstore.Store {
	t.Helper()
	u, err := backstore.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	st, err := backstore.NewRegistry(driver.Driver()).Open(context.Background(), u, backstore.Options{Warn: func(w string) { t.Log(w) }})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// The suite that every driver passes, against a controller with two replicas.
func TestConformance(t *testing.T) {
	var e *longhorn.Engine
	backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
		e = longhorn.Start(t, longhorn.Config{Size: size})
		return open(t, e.URI(""))
	}, backstoretest.Options{
		Reopen: func(t *testing.T) backstore.Store { return open(t, e.URI("")) },
		OpenReadOnly: func(t *testing.T, size int64) backstore.Store {
			return open(t, longhorn.Start(t, longhorn.Config{Size: size}).URI("&readonly"))
		},
	})
}
