package backstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"unsafe"
)

func TestRegistry(t *testing.T) {
	open := func(_ context.Context, u *URI, _ Options) (Store, error) {
		return nil, &Error{Class: ClassNotFound, Op: "open", Cause: errors.New("opened " + u.Scheme)}
	}
	r := NewRegistry(Driver{Scheme: "b", Open: open}, Driver{Scheme: "a", Open: open})
	if d := r.Drivers(); len(d) != 2 || d[0].Scheme != "a" || d[1].Scheme != "b" {
		t.Errorf("drivers %v", d)
	}
	for uri, want := range map[string]struct {
		class Class
		says  string
	}{"b:x": {ClassNotFound, "opened b"}, "c:x": {ClassUnsupported, `no driver for "c" is built in; there are: a, b`}} {
		u, err := ParseURI(uri)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Open(context.Background(), u, Options{}); ClassOf(err) != want.class || !strings.Contains(err.Error(), want.says) {
			t.Errorf("%s: %v", uri, err)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("two drivers of one scheme were taken")
		}
	}()
	NewRegistry(Driver{Scheme: "a"}, Driver{Scheme: "a"})
}

func TestError(t *testing.T) {
	e := &Error{Class: ClassMedium, Op: "read", Off: 4096, Cause: io.ErrUnexpectedEOF}
	if got := e.Error(); got != "read: medium error at byte 4096: unexpected EOF" {
		t.Errorf("%q", got)
	}
	if got := (&Error{Class: ClassBusy, Op: "open"}).Error(); got != "open: busy" {
		t.Errorf("%q", got)
	}
	wrapped := fmt.Errorf("lun 1: %w", e)
	if ClassOf(wrapped) != ClassMedium || !errors.Is(wrapped, io.ErrUnexpectedEOF) || ClassOf(io.EOF) != ClassInternal {
		t.Errorf("classes of %v and %v", ClassOf(wrapped), ClassOf(io.EOF))
	}
	seen := map[string]Class{}
	for c := ClassInternal; c <= ClassCancelled; c++ {
		if s := c.String(); s == "" || seen[s] != 0 || strings.HasPrefix(s, "class ") {
			t.Errorf("class %d is called %q", c, s)
		} else {
			seen[s] = c
		}
	}
	if got := Class(200).String(); got != "class 200" {
		t.Errorf("%q", got)
	}
	for o := Read; o <= Allocation; o++ {
		if o.String() == "unknown operation" {
			t.Errorf("operation %d has no name", o)
		}
	}
	if Op(0).String() != "unknown operation" || Op(200).String() != "unknown operation" {
		t.Error("an operation that does not exist has a name")
	}
}

func TestCheck(t *testing.T) {
	const all = CapFUA | CapDiscard | CapWriteZeroes | CapCompareAndWrite | CapAllocation
	mem := make([]byte, 8192+64)
	shift := 64 - int(uintptr(unsafe.Pointer(&mem[0]))&63)
	buf := mem[shift : shift+8192]
	info := Info{Size: 1 << 20, BlockSize: 512, MaxTransfer: 8192, MaxDiscard: 1 << 16, MaxCompareAndWrite: 4096, MemAlign: 64, Caps: all}
	big := Info{Size: math.MaxInt64 - 511, BlockSize: 512, MaxTransfer: 8192, MemAlign: 1, Caps: all}
	const fine = Class(255)
	for n, c := range []struct {
		info Info
		r    Request
		want Class
	}{
		{info, Request{Op: Read, Off: 1<<20 - 512, Len: 512, Buf: buf[:512]}, fine},
		{info, Request{Op: Read, Off: 1<<20 - 512, Len: 1024, Buf: buf[:1024]}, ClassRange},
		{info, Request{Op: Read, Off: 1 << 20}, fine},
		{info, Request{Op: Read, Off: 1<<20 + 512}, ClassRange},
		{info, Request{Op: Read, Len: 8192, Buf: buf}, fine},
		{info, Request{Op: Read, Len: 8192 + 512, Buf: make([]byte, 8192+512)}, ClassRange},
		{info, Request{Op: Read, Off: 1, Len: 512, Buf: buf[:512]}, ClassRange},
		{info, Request{Op: Read, Len: 511, Buf: buf[:511]}, ClassRange},
		{info, Request{Op: Read, Len: 512, Buf: buf[1:513]}, ClassRange},
		{info, Request{Op: Read, Len: 512, Buf: buf[:1024]}, ClassRange},
		{info, Request{Op: Read, Off: -512, Len: 512, Buf: buf[:512]}, ClassRange},
		{info, Request{Op: Read, Off: 512, Len: -512}, ClassRange},
		{info, Request{Op: Write, Flags: FUA | NoWait, Len: 512, Buf: buf[:512]}, fine},
		{info, Request{Op: Flush}, fine},
		{info, Request{Op: Flush, Len: 512}, ClassRange},
		{info, Request{Op: Discard, Len: 1 << 16}, fine},
		{info, Request{Op: Discard, Len: 1<<16 + 512}, ClassRange},
		{info, Request{Op: WriteZeroes, Flags: FUA, Len: 1 << 16}, fine},
		{info, Request{Op: Allocation, Len: 1 << 20}, fine},
		{info, Request{Op: CompareAndWrite, Len: 4096, Buf: buf[:4096], Compare: buf[:4096]}, fine},
		{info, Request{Op: CompareAndWrite, Len: 4096, Buf: buf[:4096], Compare: buf[:512]}, ClassRange},
		{info, Request{Op: CompareAndWrite, Len: 4608, Buf: buf[:4608], Compare: buf[:4608]}, ClassRange},
		{info, Request{Op: 0}, ClassUnsupported},
		{info, Request{Op: Allocation + 1}, ClassUnsupported},
		{Info{Size: 4096, BlockSize: 1, MaxTransfer: 4096, MemAlign: 1}, Request{Op: Write, Flags: FUA, Len: 1, Buf: buf[:1]}, ClassUnsupported},
		{Info{Size: 4096, BlockSize: 1, MaxTransfer: 4096, MemAlign: 1}, Request{Op: Discard, Len: 1}, ClassUnsupported},
		{Info{Size: 4096, BlockSize: 1, MaxTransfer: 4096, ReadOnly: true}, Request{Op: Write, Len: 1, Buf: buf[:1]}, ClassReadOnly},
		{Info{Size: 4096, BlockSize: 1, MaxTransfer: 4096, ReadOnly: true}, Request{Op: Read, Len: 1, Buf: buf[:1]}, fine},
		{Info{Size: 4096, BlockSize: 1, MaxTransfer: 4096, ReadOnly: true}, Request{Op: Flush}, fine},
		{big, Request{Op: Read, Off: math.MaxInt64 - 1023, Len: 512, Buf: buf[:512]}, fine},
		{big, Request{Op: Read, Off: math.MaxInt64 - 511, Len: 512, Buf: buf[:512]}, ClassRange},
		{big, Request{Op: Discard, Len: math.MaxInt64 - 511}, fine},
		{big, Request{Op: Discard, Off: 512, Len: math.MaxInt64 - 511}, ClassRange},
		{big, Request{Op: Discard, Off: math.MinInt64, Len: 512}, ClassRange},
	} {
		err := c.info.Check(&c.r)
		if (err == nil) != (c.want == fine) || err != nil && ClassOf(err) != c.want {
			t.Errorf("%d: %v [%d,+%d): %v, want %v", n, c.r.Op, c.r.Off, c.r.Len, err, c.want)
		}
	}
	r := Request{Op: Write, Len: 512, Buf: buf[:512]}
	if a := testing.AllocsPerRun(100, func() { r.Err = info.Check(&r) }); a != 0 {
		t.Errorf("Check allocates %v times", a)
	}
}
