// Package initiator is lunar's own small iSCSI initiator: the other end of the wire for protocol
// tests, for the load generator (package load below it) and for lunarctl bench.
//
// It has three levels, each usable alone:
//
//   - Conn is one connection and PDUs on it, nothing more: it sends whatever it is given, bad PDUs too, reads
//     with a deadline, and keeps the numbers (CmdSN, ExpStatSN, the command window) in fields that a test may set.
//   - Session is a logged-in session for blocking commands from many goroutines, with text, task management, NOP and logout.
//   - Queue is a logged-in session for load: many commands in flight from one goroutine over one raw socket, one write and one
//     large read system call a batch, no allocation per command.
//
// Session and Queue share one engine, which obeys the command window, answers R2T and NOP-In, and checks what the
// target sends (StatSN, DataSN and R2TSN order, offsets, lengths, residuals, unknown tags): what breaks the standard
// ends the session with a *ViolationError, because this is a test tool too. Error recovery level 0 only, one connection a session.
//
// The package owns no policy: what to negotiate comes in Options, who owns a buffer stands at each method. It must
// not know the target's packages; it may use session/pdu, session/login and the leaves of scsi.
//
//	s, err := initiator.Login(ctx, initiator.Options{Portal: "127.0.0.1:3260", TargetName: "iqn.2020-01.example:disk"})
//	if err != nil {
//		return err
//	}
//	defer s.Close()
//	r, err := s.Command(ctx, sam.NewLUN(1), initiator.Inquiry(96), nil, 96)
//	if err != nil {
//		return err
//	}
//	fmt.Printf("%v %q\n", r.Status, r.Data)
//
// It promises nothing to programs outside this module.
package initiator
