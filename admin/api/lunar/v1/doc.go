// Package lunarv1 is lunar's administrative API for programs, as gRPC: messages, clients and server interfaces, generated from the
// .proto files beside it. Those have the documentation of every field; docs/api.md in the module's root tells how to begin.
//
// A daemon (lunard --listen-admin) serves it on a unix socket, or over TCP with mutual TLS. A program asks it for one of the
// services:
//
//	conn, err := grpc.NewClient("unix:///run/lunar/lunard.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
//	…
//	r, err := lunarv1.NewTargetServiceClient(conn).ListTargets(ctx, &lunarv1.ListTargetsRequest{})
//
// Every status that lunar itself makes has an ErrorDetail among its details, with the exact refusal and what to do about it.
//
// The API is stable: fields, methods and enum values are added, never changed or taken away, as `buf breaking` can tell. The package
// knows nothing else of this module.
package lunarv1
