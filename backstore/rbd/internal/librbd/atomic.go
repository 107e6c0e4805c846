//go:build rbd && cgo

package librbd

// #include <stdint.h>
import "C"

import (
	"sync/atomic"
	"unsafe"
)

func loadU64(p *C.uint64_t) uint64 { return atomic.LoadUint64((*uint64)(unsafe.Pointer(p))) }
func storeInt(p *C.int, v int32)   { atomic.StoreInt32((*int32)(unsafe.Pointer(p)), v) }
