package scsi

import "github.com/lunar-iscsi/lunar/backstore"

// A byteRange is [off, end) of the volume, in bytes.
type byteRange struct{ off, end int64 }

// A fillJob makes every block of some ranges the same, or gives them back: WRITE SAME and UNMAP.
type fillJob struct {
	byteRange             // what is left of the range at hand
	more      []byteRange // the ranges after it
	op        backstore.Op
	flags     backstore.Flags
	block     []byte // what each block becomes; nil: zeroes
	whole     bool   // only whole blocks of the store: it is a hint
	buf       []byte // copies of block, for Write

	edge  []byte // a block of the store that the range covers in part
	stop  int64  // where the range leaves it
	state edgeState
}

// An edgeState says what the request at the store does to the edge.
type edgeState uint8

const (
	noEdge    edgeState = iota
	edgeRead            // it is being read
	edgeWrite           // it is being written back
)

func (j *fillJob) next(lu *LU, c *Command) bool {
	m := lu.storeMask
	for {
		for j.off == j.end {
			if len(j.more) == 0 {
				return false
			}
			j.byteRange, j.more = j.more[0], j.more[1:]
		}
		if j.off&m == 0 && j.end-j.off > m {
			break
		}
		j.stop = min(j.end, (j.off&^m)+m+1)
		if !j.whole {
			j.nextEdge(lu, c)
			return true
		}
		j.off = j.stop
	}
	r := &c.req
	r.Op, r.Flags, r.Off, r.Buf = j.op, c.flags|j.flags, j.off, nil
	left := j.end&^m - j.off
	if j.op != backstore.Write {
		r.Flags &^= backstore.DPO
		// Steps end where the store's own extents do, whatever the size of these is.
		r.Len = min(left, j.off&^(lu.zeroStep-1)+lu.zeroStep-j.off)
		return true
	}
	if j.buf == nil {
		j.buf = lu.memory(min(left, lu.chunk()))
		j.fill(j.buf)
	}
	r.Len = min(left, int64(len(j.buf)))
	r.Buf = j.buf[:r.Len]
	return true
}

// nextEdge reads or writes the store's block around j.off.
func (j *fillJob) nextEdge(lu *LU, c *Command) {
	r := &c.req
	r.Op, r.Flags = backstore.Write, c.flags
	if j.state == noEdge {
		j.state = edgeRead
		r.Op, r.Flags = backstore.Read, 0
		if j.edge == nil {
			j.edge = lu.memory(lu.storeMask + 1)
		}
	}
	r.Off, r.Len, r.Buf = j.off&^lu.storeMask, lu.storeMask+1, j.edge
}

func (j *fillJob) ended(lu *LU, c *Command) bool {
	switch j.state {
	case noEdge:
		j.off += c.req.Len
	case edgeRead:
		j.fill(j.edge[j.off-c.req.Off : j.stop-c.req.Off])
		j.state = edgeWrite
	case edgeWrite:
		j.off, j.state = j.stop, noEdge
	}
	return true
}

// fill makes b, which begins and ends with a logical block, what the blocks become.
func (j *fillJob) fill(b []byte) {
	if j.block == nil {
		clear(b)
		return
	}
	for len(b) != 0 {
		b = b[copy(b, j.block):]
	}
}
