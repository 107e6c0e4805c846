// Package tgtipc is tgt's management socket: what tgtadm and tgt-admin of tgt 1.0.85 ask and tgtd answers, over an admin.Service.
//
// It knows tgt's protocol, its numbers and its texts, byte for byte, and where tgtd's behaviour is kept or, for a reason that stands
// at the place, is not. It knows nothing of targets beyond package admin: whatever it changes goes through the Service, as the
// caller (uid, pid) that the kernel says is at the other end of the socket.
//
// # The protocol
//
// A connection carries one request and one response. A request is a Header of 120 bytes in the byte order of the host and, where its
// len says more, a text with its NUL; both may come in pieces. A response is eight bytes, error number and length with these eight, and the
// text with its NUL; an empty text has no NUL. There is no version: old and new meet as long as the header stays as it is.
//
// A response is never announced longer than it is, and a connection whose header is whole is never closed without one: tgtadm would
// spin in the first case, and report success in the second. Requests that tgtd cannot read (payload above MaxPayload, a length below
// the header's) are closed as tgtd does, and so is what does not arrive within a bound, where tgtd waits for ever.
//
// # Reasons
//
// An error is a number, and most of them are 17 (invalid request). A client that sets the header's field pack, which no tgtadm
// sets and no tgtd reads, to WantReason is told why: the response then has the error's number, and the reason as its text, one line of at most
// MaxReason bytes with a NUL, len counting it. A tgtd, or a lunard that has no more to say, answers len 8 as ever; so a client asks always,
// and reads what len says. Where the error is 0 the text is what it always is. Reasons go to the log in any case.
//
//	h := tgtipc.Header{Mode: tgtipc.ModeTarget, Op: tgtipc.OpDelete, TID: 1, LUN: tgtipc.NoLUN, Pack: tgtipc.WantReason}
//	conn.Write(h.Append(nil, ""))
//	err, text, _ := tgtipc.ReadResponse(conn, 0)
//
// # Owners
//
// A Server owns its listener, the lock beside the socket, and a goroutine a connection, of which there is a bounded number. What a
// request asks is done on that goroutine. What only this face knows (bindings of hosts, a stopped driver) is guarded by one mutex
// and is not saved.
//
// It promises nothing to programs outside this module.
package tgtipc
