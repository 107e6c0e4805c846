package nbd

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
)

func volumesOf(t testing.TB, uri string) (*backstore.URI, *backstore.Volumes) {
	t.Helper()
	u := mustParse(t, uri)
	_, v, err := backstore.NewRegistry(Drivers()...).Volumes(u)
	if err != nil {
		t.Fatal(err)
	}
	return u, v
}

func TestVolumes(t *testing.T) {
	ctx := context.Background()
	everyWay(t, func(t *testing.T, s *server, _ *testLoop) {
		s.start()
		u, v := volumesOf(t, s.uri("&connections=2"))
		list, err := v.List(ctx, u)
		if err != nil || len(list) != 3 {
			t.Fatalf("%+v, %v", list, err)
		}
		for i, name := range []string{"disk", "", "a b/ü?"} {
			if list[i].Name != name || list[i].Used != -1 {
				t.Errorf("export %d: %+v, want %q", i, list[i], name)
			}
			other := mustParse(t, list[i].URI)
			c, err := parse(other, backstore.Options{})
			if err != nil || c.export != name || c.addr != s.addr || c.conns != 2 || c.tlsDir != s.certs || other.Scheme != u.Scheme {
				t.Errorf("%s: %+v, %v", list[i].URI, c, err)
			}
		}
		// The server tells of the size of one only.
		if list[0].Size != int64(len(s.data)) || list[1].Size != 0 || list[2].Size != 0 {
			t.Errorf("sizes: %+v", list)
		}
		if one, err := v.Stat(ctx, u); err != nil || one.Size != int64(len(s.data)) || one.URI != u.String() || one.Name != "disk" {
			t.Errorf("%+v, %v", one, err)
		}
		_, err = v.Stat(ctx, mustParse(t, list[2].URI))
		classIs(t, err, backstore.ClassNotFound)
		s.ended() // each has said good-bye
		s.stop()
		_, err = v.List(ctx, u)
		classIs(t, err, backstore.ClassOffline)
	})
}

// What a server says to the question for exports is checked before it is kept.
func TestHostileLists(t *testing.T) {
	name := func(n int) []byte {
		return optReply(optList, repServer, cat(be32(uint32(n)), bytes.Repeat([]byte{'x'}, n)))
	}
	for _, tc := range []struct {
		says  []byte
		class backstore.Class
		want  string
	}{
		{optReply(optList, errPolicy, []byte("no")), backstore.ClassUnsupported, "does not list its exports (reply 0x80000002) (it says: no)"},
		{optReply(optList, errTLS, nil), backstore.ClassUnsupported, "name it with nbds"},
		{optReply(optList, errShut, nil), backstore.ClassOffline, "shutting down"},
		{optReply(optList, repServer, []byte{0, 0, 0}), backstore.ClassTransport, "3 bytes"},
		{optReply(optList, repServer, cat(be32(9), []byte("short"))), backstore.ClassTransport, "9 bytes"},
		{optReply(optList, repInfo, nil), backstore.ClassTransport, "type 3"},
		{name(maxExportName + 1), backstore.ClassTransport, "4097 bytes"},
		{bytes.Repeat(name(1), maxExports+2), backstore.ClassTransport, fmt.Sprintf("more than %d", maxExports+1)},
	} {
		s := newServer(t, "unix")
		s.exports = tc.says
		u, v := volumesOf(t, s.start().uri(""))
		_, err := v.List(context.Background(), u)
		if err == nil || backstore.ClassOf(err) != tc.class || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v, want class %v and %q", err, tc.class, tc.want)
		}
		s.stop()
	}
}
