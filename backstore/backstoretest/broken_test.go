package backstoretest_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
	"github.com/lunar-iscsi/lunar/backstore/mem"
)

// A broken store is a good one, seen through a fault of its driver.
type broken struct {
	*mem.Store
	info   func(*backstore.Info)
	submit func(*broken, *backstore.Request) backstore.Outcome
	closed func(*broken)
	only   string // the one test that has to find it, where others would take long to
	kept   []byte
	n      int
}

func (b *broken) Info() backstore.Info {
	i := b.Store.Info()
	if b.info != nil {
		b.info(&i)
	}
	return i
}

func (b *broken) Submit(r *backstore.Request) backstore.Outcome {
	if b.submit == nil {
		return b.Store.Submit(r)
	}
	return b.submit(b, r)
}

func (b *broken) Close(ctx context.Context) error {
	if b.closed != nil {
		b.closed(b)
	}
	return b.Store.Close(ctx)
}

// faults are what drivers get wrong. The suite has to find each.
var faults = map[string]broken{
	"a second completion": {submit: func(b *broken, r *backstore.Request) backstore.Outcome {
		if b.Store.Submit(r); r.Op != backstore.Flush || r.Err != nil {
			return backstore.Done
		}
		r.C.Complete(r)
		r.C.Complete(r)
		return backstore.Pending
	}},
	"a completion of what is done": {submit: func(b *broken, r *backstore.Request) backstore.Outcome {
		b.Store.Submit(r)
		if r.Op == backstore.Discard {
			r.C.Complete(r)
		}
		return backstore.Done
	}},
	"a short read": {submit: func(b *broken, r *backstore.Request) backstore.Outcome {
		if r.Op == backstore.Read && len(r.Buf) > 4096 && int64(len(r.Buf)) == r.Len {
			c := *r
			c.Buf, c.Len = r.Buf[:4096], 4096
			out := b.Store.Submit(&c)
			r.Err = c.Err
			return out
		}
		return b.Store.Submit(r)
	}},
	"a buffer that is written to later": {submit: func(b *broken, r *backstore.Request) backstore.Outcome {
		if len(b.kept) > 0 {
			b.kept[0] = 0
		}
		if r.Op == backstore.Write {
			b.kept = r.Buf
		}
		return b.Store.Submit(r)
	}},
	"WouldBlock for a write that was made": {submit: func(b *broken, r *backstore.Request) backstore.Outcome {
		if b.Store.Submit(r); r.Flags&backstore.NoWait != 0 && r.Op == backstore.Write {
			if b.n++; b.n%2 == 0 {
				return backstore.WouldBlock
			}
		}
		return backstore.Done
	}},
	"NoWait that goes pending": {submit: func(b *broken, r *backstore.Request) backstore.Outcome {
		if b.Store.Submit(r); r.Flags&backstore.NoWait != 0 {
			r.C.Complete(r)
			return backstore.Pending
		}
		return backstore.Done
	}},
	"a claim of NoWait that is not so": {submit: func(b *broken, r *backstore.Request) backstore.Outcome {
		if r.Flags&backstore.NoWait != 0 {
			return backstore.WouldBlock
		}
		return b.Store.Submit(r)
	}},
	"an error without a class": {submit: func(b *broken, r *backstore.Request) backstore.Outcome {
		if b.Store.Submit(r); r.Err != nil {
			r.Err = os.ErrInvalid
		}
		return backstore.Done
	}},
	"a miscompare at the wrong place": {submit: func(b *broken, r *backstore.Request) backstore.Outcome {
		b.Store.Submit(r)
		if e, ok := r.Err.(*backstore.Error); ok && e.Class == backstore.ClassMiscompare {
			e.Off += r.Off
		}
		return backstore.Done
	}},
	"a discard that does nothing": {submit: func(b *broken, r *backstore.Request) backstore.Outcome {
		if r.Op == backstore.Discard && r.Off+r.Len <= b.Info().Size {
			return backstore.Done
		}
		return b.Store.Submit(r)
	}},
	"an allocation answer with a gap": {submit: func(b *broken, r *backstore.Request) backstore.Outcome {
		if b.Store.Submit(r); r.Op == backstore.Allocation && len(r.Extents) > 1 {
			r.Extents[1].Off++
		}
		return backstore.Done
	}},
	"data called a hole": {submit: func(b *broken, r *backstore.Request) backstore.Outcome {
		if b.Store.Submit(r); r.Op == backstore.Allocation {
			for i := range r.Extents {
				r.Extents[i].State = backstore.Deallocated
			}
		}
		return backstore.Done
	}},
	"an allocation on the steady path": {submit: func(b *broken, r *backstore.Request) backstore.Outcome {
		b.kept = make([]byte, 16)
		return b.Store.Submit(r)
	}},
	"a goroutine left behind":  {only: "/Info", closed: func(*broken) { go func() { select {} }() }},
	"a capability without one": {info: func(i *backstore.Info) { i.Caps |= backstore.CapCancel }},
	"another size":             {info: func(i *backstore.Info) { i.Size += 512 }},
}

const brokenEnv = "LUNAR_TEST_BROKEN"

// TestSuite runs the suite over a good store; TestBroken runs it in processes of their own over broken ones.
func TestSuite(t *testing.T) {
	name := os.Getenv(brokenEnv)
	backstoretest.Run(t, func(t *testing.T, size int64) backstore.Store {
		st, err := mem.New(mem.Config{Size: size, BlockSize: 512})
		if err != nil {
			t.Fatal(err)
		}
		b := faults[name]
		b.Store = st
		return &b
	})
}

// The suite finds every fault.
func TestBroken(t *testing.T) {
	if os.Getenv(brokenEnv) != "" {
		return
	}
	for name := range faults {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestSuite$"+faults[name].only, "-test.timeout=60s")
			cmd.Env = append(os.Environ(), brokenEnv+"="+name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL") {
				t.Errorf("the suite did not find %s: %v\n%s", name, err, out)
			}
		})
	}
}
