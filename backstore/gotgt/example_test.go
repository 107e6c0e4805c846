package gotgt_test

import (
	"context"
	"fmt"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/gotgt"
)

// ram is a back end as programs that embed gotgt have it: four methods.
type ram []byte

func (m ram) ReadAt(p []byte, off int64) (int, error)  { return copy(p, m[off:]), nil }
func (m ram) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }
func (m ram) Sync() (int, error)                       { return 0, nil }
func (m ram) Unmap(off, n int64) (int, error)          { return 0, nil }

// A back end written for gotgt becomes a volume of a registry, which a target serves.
func ExampleDriver() {
	reg := backstore.NewRegistry(gotgt.Driver(map[string]gotgt.Remote{"ram": {Store: make(ram, 1<<20), Size: 1 << 20}}))
	u, err := backstore.ParseURI("gotgt:ram?workers=4")
	if err != nil {
		fmt.Println(err)
		return
	}
	st, err := reg.Open(context.Background(), u, backstore.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(st.Info().Volume, st.Info().Size, "bytes")
	if err := st.Close(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output: ram 1048576 bytes
}
