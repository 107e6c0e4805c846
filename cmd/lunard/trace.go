package main

import (
	"fmt"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/traced"
)

// setTrace turns on what --trace names. The lines go to the log whatever its level.
func (o *options) setTrace(log *asyncLog) error {
	for _, kind := range o.trace {
		switch kind {
		case "pdu":
			o.cfg.Trace.PDU = func(conn, dir, line string) { log.trace(conn + " " + dir + " " + line) }
		case "scsi":
			o.cfg.Trace.SCSI = func(conn, line string) { log.trace(conn + " scsi " + line) }
		case "io":
			o.io = func(line string) { log.trace("io " + line) }
		default:
			return usageError{fmt.Errorf("--trace %s: want pdu, scsi or io", kind)}
		}
	}
	return nil
}

// traceIO returns what wraps each store, or nil.
func (o *options) traceIO() func(target string, lun uint16, st backstore.Store) backstore.Store {
	if o.io == nil {
		return nil
	}
	return func(target string, lun uint16, st backstore.Store) backstore.Store {
		return traced.New(st, fmt.Sprintf("%s/%d", target, lun), o.io)
	}
}

func (a *asyncLog) trace(line string) { _, _ = a.Write([]byte(line + "\n")) }
