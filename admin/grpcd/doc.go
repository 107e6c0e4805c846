// Package grpcd serves admin/api over gRPC: it carries calls to an admin.Service and answers back, and decides who may come in.
//
// It knows the messages, the service's words and errors, sockets and certificates. It knows no target and keeps no state of what is
// served: what a call changes is the service's to do, whole or not at all.
//
// Who may call: on a unix socket whoever the file's mode lets connect (0600 unless said otherwise); the peer's uid is in the audit line of
// each change. Over TCP whoever has a certificate of the client CA, with TLS 1.3; there is no TCP without.
//
// Everything that a caller can make grow is bounded: Config says by what. A panic in a call costs that call.
//
//	s, err := grpcd.New(service, grpcd.Config{Logger: log, TLS: &files})
//	l, err := grpcd.Listen("unix:/run/lunar/lunard.sock")
//	go s.Serve(l)
//	…
//	s.Stop(ctx)
//
// It promises nothing to programs outside this module.
package grpcd
