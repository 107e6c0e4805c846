package main

import (
	"context"
	"encoding/binary"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
)

// Service actions of PERSISTENT RESERVE OUT (SPC-4 §6.16).
const (
	prReserve           = 1
	prRelease           = 2
	prPreemptAndAbort   = 5
	prRegisterAndIgnore = 6
)

// prList is the length of its parameter list; byte 20 has APTPL.
const prList = 24

// key is an initiator's reservation key.
func key(id uint32) uint64 { return 0x736f616b<<32 | uint64(id) + 1 }

// persist sends a PERSISTENT RESERVE OUT. What the disk answers is part of the load: others may have reserved it.
func (w *worker) persist(ctx context.Context, d *disk, action, typ byte, own, other uint64, aptpl bool) error {
	b := make([]byte, 10)
	b[0], b[1], b[2] = cdb.PersistentOut, action, typ
	b[8] = prList
	list := make([]byte, prList)
	binary.BigEndian.PutUint64(list, own)
	binary.BigEndian.PutUint64(list[8:], other)
	if aptpl {
		list[20] = 1
	}
	_, err := w.simple(ctx, d, b, list)
	return err
}

// unregister takes back what a step left, when it was cut short.
func (w *worker) unregister(ctx context.Context, d *disk) error {
	return w.persist(ctx, d, prRegisterAndIgnore, 0, 0, 0, false)
}

// before reserves d, and reports whether the session is still there.
func (w *worker) before(ctx context.Context, s *step, d *disk) bool {
	var err error
	switch s.kind {
	case reserve:
		err = w.reserve6(ctx, d, cdb.Reserve6)
	case persistent:
		if err = w.persist(ctx, d, prRegisterAndIgnore, 0, 0, key(w.id), s.after%2 == 1); err == nil {
			err = w.persist(ctx, d, prReserve, s.typ, key(w.id), 0, false)
		}
	case preempt:
		defer d.disturb()()
		if err = w.persist(ctx, d, prRegisterAndIgnore, 0, 0, key(w.id), false); err == nil {
			err = w.persist(ctx, d, prPreemptAndAbort, s.typ, key(w.id), key(s.other), false)
		}
		w.run.counts.resets.Add(1)
	}
	w.run.counts.reservations.Add(1)
	return err == nil
}

// behind gives it back.
func (w *worker) behind(ctx context.Context, s *step, d *disk) {
	if w.s.Err() != nil || w.cause != nil {
		return
	}
	if s.kind == reserve {
		_ = w.reserve6(ctx, d, cdb.Release6) // a session that ends meanwhile has released it
		return
	}
	if err := w.persist(ctx, d, prRelease, s.typ, key(w.id), 0, false); err == nil {
		_ = w.unregister(ctx, d) // and if the session ended, login does it
	}
}

func (w *worker) reserve6(ctx context.Context, d *disk, op byte) error {
	_, err := w.simple(ctx, d, []byte{op, 0, 0, 0, 0, 0}, nil)
	return err
}
