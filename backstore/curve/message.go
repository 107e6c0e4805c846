package curve

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
)

// The services of nebd-server (package nebd.client).
const (
	fileService      = "nebd.client.NebdFileService"
	heartbeatService = "nebd.client.NebdHeartbeatService"
)

// heartbeatVersion is what a heartbeat calls its sender; nebd-server only counts it.
const heartbeatVersion = "lunar"

// openMessage is OpenFile's. exclusive is always false and always given: with true, or without, nebd-server answers reads of segments that it holds for
// unallocated with zeroes, whatever another opener has written there since.
func openMessage(name string) []byte {
	b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name)
	return protowire.AppendBytes(protowire.AppendTag(b, 2, protowire.BytesType), []byte{1 << 3, 0})
}

func fdMessage(fd int32) []byte { return appendFd(nil, fd) }

func appendFd(b []byte, fd int32) []byte { return appendUint(b, 1, uint64(int64(fd))) }

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

// appendRange appends the message of Read, Write and Discard.
func appendRange(b []byte, fd int32, off, size int64) []byte {
	return appendUint(appendUint(appendFd(b, fd), 2, uint64(off)), 3, uint64(size))
}

func resizeMessage(fd int32, size int64) []byte { return appendUint(fdMessage(fd), 2, uint64(size)) }

// heartbeatMessage is KeepAlive's, of every open descriptor.
func heartbeatMessage(pid int, open []heartbeat) []byte {
	b := appendUint(nil, 1, uint64(pid))
	b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), heartbeatVersion)
	for _, h := range open {
		info := protowire.AppendString(protowire.AppendTag(fdMessage(h.fd), 2, protowire.BytesType), h.name)
		b = protowire.AppendBytes(protowire.AppendTag(b, 3, protowire.BytesType), info)
	}
	return b
}

type heartbeat struct {
	fd   int32
	name string
}

// A retCode is the first field of every answer: 0, or -1 for whatever has failed.
var errNoRetCode = errors.New("an answer without its retCode")

// A reply is what the answers of nebd-server have.
type reply struct {
	code int32
	fd   int32 // OpenFile
	info info  // GetInfo
	has  bool  // field 3
}

// info is a FileInfo. Its objSize and objNums are uninitialised memory of the server, and not looked at.
type info struct {
	size  int64
	block int
}

func badAnswer(f brpc.Field) error {
	return fmt.Errorf("an answer whose field %d has wire type %d", f.Number, f.Type)
}

// parseCode reads the retCode of an answer, without allocating.
func parseCode(b []byte) (code int32, err error) {
	has := false
	for len(b) > 0 {
		f, rest, err := brpc.NextField(b)
		if err != nil {
			return 0, err
		}
		if b = rest; f.Number == 1 {
			if f.Type != protowire.VarintType {
				return 0, badAnswer(f)
			}
			code, has = int32(f.Value), true
		}
	}
	if !has {
		return 0, errNoRetCode
	}
	return code, nil
}

// parseOpen reads the answer of OpenFile.
func parseOpen(b []byte) (r reply, err error) {
	if r.code, err = parseCode(b); err != nil || r.code != 0 {
		return r, err
	}
	err = brpc.Fields(b, func(f brpc.Field) error {
		if f.Number == 3 {
			if f.Type != protowire.VarintType || int32(f.Value) <= 0 {
				return fmt.Errorf("a descriptor that is none (%d)", int64(f.Value))
			}
			r.fd, r.has = int32(f.Value), true
		}
		return nil
	})
	if err == nil && !r.has {
		err = errors.New("an answer without its descriptor")
	}
	return r, err
}

// parseInfo reads the answer of GetInfo.
func parseInfo(b []byte) (r reply, err error) {
	if r.code, err = parseCode(b); err != nil || r.code != 0 {
		return r, err
	}
	r.info.block = oldBlock
	err = brpc.Fields(b, func(f brpc.Field) error {
		if f.Number != 3 {
			return nil
		}
		if f.Type != protowire.BytesType {
			return badAnswer(f)
		}
		r.has = true
		return brpc.Fields(f.Bytes, func(f brpc.Field) error {
			switch {
			case f.Number != 1 && f.Number != 4:
			case f.Type != protowire.VarintType:
				return badAnswer(f)
			case f.Number == 1:
				r.info.size = int64(f.Value)
			default:
				r.info.block = int(uint32(f.Value))
			}
			return nil
		})
	})
	if err != nil {
		return r, err
	}
	i := r.info
	switch {
	case !r.has:
		err = errors.New("an answer without what was asked for")
	case i.block < minBlock || i.block > maxBlock || i.block&(i.block-1) != 0:
		err = fmt.Errorf("a volume with blocks of %d bytes", i.block)
	case i.size <= 0 || i.size%int64(i.block) != 0:
		err = fmt.Errorf("a volume of %d bytes, in blocks of %d", i.size, i.block)
	}
	return r, err
}
