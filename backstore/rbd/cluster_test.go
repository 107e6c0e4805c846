//go:build rbd && cgo

package rbd

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ceph/go-ceph/rbd"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/test/ceph"
)

// A testCluster is a running Ceph cluster and the pool that a test works in.
type testCluster struct {
	conf string
	n    atomic.Int64
}

// one is the cluster that most tests share; it ends with the process (TestMain).
type one struct {
	once sync.Once
	c    *ceph.Cluster
	err  error
}

var shared = &one{}

func (o *one) start() {
	o.c, o.err = ceph.Launch(ceph.Config{PGs: 16})
}

func (o *one) close() {
	if o.c != nil {
		o.c.Close()
	}
}

// start returns the cluster that tests share.
func start(t testing.TB) *testCluster {
	t.Helper()
	ceph.Need(t)
	shared.once.Do(shared.start)
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return &testCluster{conf: shared.c.Conf()}
}

// create makes an image and returns its name, POOL/IMAGE.
func (c *testCluster) create(t testing.TB, size int64) string {
	t.Helper()
	cl := c.client(t)
	name := fmt.Sprintf("%s-%d-%d", "t", time.Now().UnixNano(), c.n.Add(1))
	opts := rbd.NewRbdImageOptions()
	defer opts.Destroy()
	if err := rbd.CreateImage(cl.io, name, uint64(size), opts); err != nil {
		t.Fatal(err)
	}
	cl.close()
	return "rbd/" + name
}

// uri names an image of the cluster.
func (c *testCluster) uri(name, options string) string {
	u := "rbd:" + name + "?conf=" + c.conf
	if options != "" {
		u += "&" + options
	}
	return u
}

// client is a client of the cluster, of the test's own.
func (c *testCluster) client(t testing.TB) *cluster {
	t.Helper()
	cl, err := connect(t.Context(), parsed(t, c.uri("rbd/any", "")))
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func parsed(t testing.TB, uri string) *config {
	t.Helper()
	u, err := backstore.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseImage(u, backstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tryOpen(t testing.TB, uri string, o backstore.Options) (*Store, error) {
	t.Helper()
	u, err := backstore.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	if o.Warn == nil {
		o.Warn = func(s string) { t.Log(s) }
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	st, err := backstore.NewRegistry(Driver()).Open(ctx, u, o)
	if err != nil {
		return nil, err
	}
	return st.(*Store), nil
}

func mustOpen(t testing.TB, uri string, o backstore.Options) *Store {
	t.Helper()
	s, err := tryOpen(t, uri, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
