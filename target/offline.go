package target

import (
	"fmt"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session"
)

// busy ends a command of a target that is offline before anything has looked at it: INQUIRY, REPORT LUNS and REQUEST SENSE
// too, as with tgt, and no unit attention is told. SAM-5 §5.3.1 allows BUSY for any command.
func (l *loop) busy(r *record, acts []session.Action) []session.Action {
	if tr := l.s.cfg.Trace.SCSI; tr != nil {
		tr(r.conn.name, fmt.Sprintf("lun=%v cdb=% x -> %v, the target is offline", r.task.LUN, r.task.CDB, sam.Busy))
	}
	return l.respond(r, session.Result{Status: sam.Busy}, acts)
}
