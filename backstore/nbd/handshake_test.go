package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func be64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func cat(parts ...[]byte) (b []byte) {
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

var greeting = cat(be64(magicInit), be64(magicOption), be16(flagFixedNewstyle|flagNoZeroes))

func exportInfo(size uint64, flags uint16) []byte {
	return optReply(optGo, repInfo, cat(be16(infoExport), be64(size), be16(flags)))
}

func blockInfo(min, pref, max uint32) []byte {
	return optReply(optGo, repInfo, cat(be16(infoBlockSize), be32(min), be32(pref), be32(max)))
}

// A script is a server that says all it has to say without listening.
type script struct{ io.Reader }

func (script) Write(p []byte) (int, error) { return len(p), nil }

// shake runs the handshake without TLS.
func shake(rw io.ReadWriter, name string) (*export, error) {
	if err := greet(rw); err != nil {
		return nil, err
	}
	return agree(rw, name)
}

// compact refuses extended headers, and noContext base:allocation.
var (
	compact   = optReply(optExtended, errUnsup, nil)
	noContext = optReply(optSetContext, repAck, nil)
)

func TestHandshakeRefusals(t *testing.T) {
	structured := cat(compact, optReply(optStructured, repAck, nil), noContext)
	goAck := optReply(optGo, repAck, nil)
	tests := []struct {
		name  string
		says  []byte
		class backstore.Class
		want  string
	}{
		{"nothing", nil, backstore.ClassInternal, "no greeting"},
		{"http", []byte("HTTP/1.0 400 Bad Request\r\n\r\n"), backstore.ClassInternal, "no NBD server"},
		{"other magic", cat(be64(magicInit), be64(1)), backstore.ClassInternal, "no NBD server"},
		{"oldstyle", cat(be64(magicInit), be64(magicOldstyle)), backstore.ClassInternal, "oldstyle"},
		{"half a greeting", greeting[:17], backstore.ClassInternal, "no greeting"},
		{"newstyle that is not fixed", cat(greeting[:16], be16(0)), backstore.ClassInternal, "fixed newstyle"},
		{"end in the options", greeting, backstore.ClassInternal, "no answer to option 11"},
		{"unknown export", cat(greeting, structured, optReply(optGo, errUnkn, []byte("no\x1bpe"))), backstore.ClassNotFound, `export "disk" not found on the server (it says: no?pe)`},
		{"too old for GO", cat(greeting, structured, optReply(optGo, errUnsup, nil)), backstore.ClassUnsupported, "too old"},
		{"policy", cat(greeting, structured, optReply(optGo, errPolicy, nil)), backstore.ClassUnsupported, "policy"},
		{"invalid", cat(greeting, structured, optReply(optGo, errInval, nil)), backstore.ClassUnsupported, "invalid"},
		{"platform", cat(greeting, structured, optReply(optGo, errPlatf, nil)), backstore.ClassUnsupported, "platform"},
		{"TLS", cat(greeting, optReply(optExtended, errTLS, nil), optReply(optStructured, errTLS, nil), optReply(optGo, errTLS, nil)), backstore.ClassUnsupported, "TLS"},
		{"shutdown", cat(greeting, structured, optReply(optGo, errShut, nil)), backstore.ClassOffline, "shutting down"},
		{"block size", cat(greeting, structured, optReply(optGo, errBlkReq, nil)), backstore.ClassUnsupported, "block sizes"},
		{"too big", cat(greeting, structured, optReply(optGo, errTooBig, nil)), backstore.ClassUnsupported, "too long"},
		{"an error of no name", cat(greeting, structured, optReply(optGo, repError|77, nil)), backstore.ClassTransport, "0x8000004d"},
		{"a reply of no sense", cat(greeting, structured, optReply(optGo, 9, nil)), backstore.ClassInternal, "an answer of type 9"},
		{"a reply to another option", cat(greeting, compact, optReply(optGo, repAck, nil)), backstore.ClassInternal, "makes no sense"},
		{"reply magic", cat(greeting, compact, be64(1), be32(optStructured), be32(repAck), be32(0)), backstore.ClassInternal, "makes no sense"},
		{"a huge reply", cat(greeting, compact, be64(magicOptReply), be32(optStructured), be32(repAck), be32(maxOptReply+1)), backstore.ClassInternal, "makes no sense"},
		{"half a reply", cat(greeting, compact, be64(magicOptReply), be32(optStructured), be32(repAck), be32(8)), backstore.ClassInternal, "half an answer"},
		{"an info where none belongs", cat(greeting, compact, optReply(optStructured, repInfo, nil)), backstore.ClassInternal, "an answer of type 3"},
		{"no end of infos", cat(greeting, structured, []byte(strings.Repeat(string(exportInfo(512, 1)), maxOptReplies+1))), backstore.ClassInternal, "more than 64"},
		{"an info without a type", cat(greeting, structured, optReply(optGo, repInfo, []byte{0})), backstore.ClassInternal, "without a type"},
		{"a short export info", cat(greeting, structured, optReply(optGo, repInfo, cat(be16(infoExport), be64(1)))), backstore.ClassInternal, "type 0 with 10 bytes"},
		{"no export info", cat(greeting, structured, goAck), backstore.ClassInternal, "size"},
		{"empty", cat(greeting, structured, exportInfo(0, 1), goAck), backstore.ClassInternal, "out of range"},
		{"beyond 2^63", cat(greeting, structured, exportInfo(1<<63, 1), goAck), backstore.ClassInternal, "out of range"},
		{"no flags", cat(greeting, structured, exportInfo(512, 0), goAck), backstore.ClassInternal, "transmission flags"},
		{"minimum 0", cat(greeting, structured, exportInfo(4096, 1), blockInfo(0, 4096, 4096), goAck), backstore.ClassInternal, "make no sense"},
		{"minimum 3", cat(greeting, structured, exportInfo(4096, 1), blockInfo(3, 4096, 4096), goAck), backstore.ClassInternal, "make no sense"},
		{"minimum of 128 KiB", cat(greeting, structured, exportInfo(1<<20, 1), blockInfo(1<<17, 1<<17, 1<<20), goAck), backstore.ClassInternal, "make no sense"},
		{"preferred below minimum", cat(greeting, structured, exportInfo(4096, 1), blockInfo(4096, 512, 4096), goAck), backstore.ClassInternal, "make no sense"},
		{"maximum below minimum", cat(greeting, structured, exportInfo(4096, 1), blockInfo(4096, 4096, 512), goAck), backstore.ClassInternal, "make no sense"},
		{"maximum of odd size", cat(greeting, structured, exportInfo(4096, 1), blockInfo(512, 4096, 1000), goAck), backstore.ClassInternal, "make no sense"},
		{"smaller than its block", cat(greeting, structured, exportInfo(512, 1), blockInfo(4096, 4096, 4096), goAck), backstore.ClassInternal, "smaller than its block"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			_, err := shake(script{strings.NewReader(string(tc.says))}, "disk")
			if err == nil || !strings.Contains(err.Error(), tc.want) || backstore.ClassOf(err) != tc.class {
				t.Fatalf("%v (class %v), want class %v and %q", err, backstore.ClassOf(err), tc.class, tc.want)
			}
		})
	}
	ex, err := shake(script{strings.NewReader(string(cat(greeting, compact, optReply(optStructured, errUnsup, nil),
		exportInfo(1<<63-1, 1|tfFUA), blockInfo(1, 4096, 1<<32-1), optReply(optGo, repInfo, cat(be16(1), []byte("name"))), goAck)))}, "disk")
	if err != nil || ex.structured || ex.size != 1<<63-1 || ex.flags != 1|tfFUA || !ex.blocks || ex.payload != 1<<32-1 {
		t.Fatalf("%+v, %v", ex, err)
	}
}

func TestOpenRefusals(t *testing.T) {
	s := newServer(t, "unix").start()
	_, err := tryOpen(t, "nbd+unix:///nope?socket="+s.addr, nil)
	classIs(t, err, backstore.ClassNotFound)
	_, err = tryOpen(t, "nbd+unix:///disk?socket="+s.addr+".not", nil)
	classIs(t, err, backstore.ClassOffline)
	for _, uri := range []string{"nbd:///disk", "nbd+unix:///disk", "nbd+unix://host/disk?socket=/x", "nbd://h/disk?socket=/x", "nbd://h:1:2/disk",
		"nbd://h/disk?connections=0", "nbd://h/disk?connections=17", "nbd://h/disk?inflight=x", "nbd://h/disk?offline_after=soon", "nbd://h/disk?offline_after=-1",
		"nbd://h/disk?restart=maybe", "nbd://h/disk?readonly=maybe", "nbd://h/disk?shared=maybe", "nbd://h/" + strings.Repeat("x", maxExportName+1)} {
		_, err := tryOpen(t, uri, nil)
		classIs(t, err, backstore.ClassUnsupported)
	}
}

func TestParse(t *testing.T) {
	for uri, want := range map[string]config{
		"nbd://h/disk": {scheme: "nbd", network: "tcp", addr: "h:10809", export: "disk", conns: 4, inFlight: 256, offlineAfter: 30 * time.Second},
		"nbd://[::1]":  {scheme: "nbd", network: "tcp", addr: "[::1]:10809", conns: 4, inFlight: 256, offlineAfter: 30 * time.Second},
		"nbd://[::1]:7//a%20b?connections=2&inflight=3&offline_after=1m&restart=safe&readonly&shared=yes": {scheme: "nbd", network: "tcp", addr: "[::1]:7",
			export: "/a b", conns: 2, inFlight: 3, offlineAfter: time.Minute, safe: true, readOnly: true, shared: true},
		"nbd+unix:///?socket=/run/a%20b&offline_after=5": {scheme: "nbd+unix", network: "unix", addr: "/run/a b", conns: 4, inFlight: 256, offlineAfter: 5 * time.Second},
	} {
		u, err := backstore.ParseURI(uri)
		if err != nil {
			t.Fatal(err)
		}
		want.minPause, want.maxPause = backoffMin, backoffMax
		c, err := parse(u, backstore.Options{})
		if err != nil || *c != want {
			t.Errorf("%s: %+v, %v", uri, c, err)
		}
	}
}

// A server that says nothing does not hold Open beyond its context.
func TestSilentServer(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		nc, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		cancel()
		_, _ = io.Copy(io.Discard, nc) // until the client gives up
		_ = nc.Close()
	}()
	u, err := backstore.ParseURI("nbd+unix:///disk?socket=" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = open(ctx, u, backstore.Options{})
	var be *backstore.Error
	if !errors.As(err, &be) || time.Since(start) > handshakeTime/2 {
		t.Fatalf("%v after %v", err, time.Since(start))
	}
}

// A server that takes one connection only and lets others hang is used with one.
func TestFewerConnections(t *testing.T) {
	s := newServer(t, "unix")
	s.flags |= tfMultiConn
	s.accept = 2
	h := openURI(t, s.start().uri(""), nil)
	if len(h.st.conns) != 2 {
		t.Fatalf("%d connections", len(h.st.conns))
	}
	h.wantRemark("going on with 2 of 4 connections")
	h.must(read(0, 512))
	h.close()
}

func FuzzHandshake(f *testing.F) {
	ok := cat(greeting, compact, optReply(optStructured, repAck, nil), noContext, exportInfo(1<<20, allFlags), blockInfo(1, 4096, 1<<25), optReply(optGo, repAck, nil))
	f.Add(ok)
	f.Add(cat(greeting, compact, optReply(optStructured, errUnsup, []byte("no")), optReply(optGo, errUnkn, []byte("who?"))))
	f.Add(greeting)
	f.Fuzz(func(t *testing.T, says []byte) {
		ex, err := shake(script{strings.NewReader(string(says))}, "disk")
		if err != nil {
			return
		}
		i := ex.info(&config{scheme: "nbd", inFlight: 1})
		if i.Size <= 0 || i.BlockSize < 1 || i.Size%int64(i.BlockSize) != 0 || i.MaxTransfer < int64(i.BlockSize) ||
			i.MaxTransfer%int64(i.BlockSize) != 0 || i.PhysicalBlock < i.BlockSize || i.MaxDiscard%int64(i.BlockSize) != 0 {
			t.Fatalf("an Info that is not true: %+v of %+v", i, ex)
		}
	})
}
