// Package faketarget is the target that the initiator's own tests talk to: one LUN of memory over any net.Conn, with the negotiation it is
// told, R2T where it must, and a hook through which a test answers commands itself. It checks CmdSN, ExpStatSN, Data-Out
// order and lengths of what it gets, so that the initiator is tested by it.
//
// It knows the PDUs, and must not know lunar's own target: what the two have in common would go untested. A Target belongs to the test
// until Serve is called and is read-only from then on but for its disk, which Mu guards; a Session belongs to the goroutine of
// its Serve.
//
//	ft := faketarget.New(1<<20, params)
//	near, far := net.Pipe()
//	go ft.Serve(far)
//	c := initiator.NewConn(near)
//
// It promises nothing to programs outside this module.
package faketarget
