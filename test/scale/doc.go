// Command scale shows what many idle targets and sessions cost one lunard: 1,000 targets and 10,000 sessions in one process by
// default. It tells how long all take to log in, and again when all come back at once after the daemon was killed; then
// memory, threads and descriptors, the processor time of the idle daemon with keepalive as shipped, and the latency of one
// busy target without and beside the rest. The goals stand beside the figures; one that is not met is exit status 1.
//
//	go run ./test/scale
//	go run ./test/scale --targets 100 --sessions 1000 --idle 10 --out scale.md
//
// Each session is a connection of initiator.Conn with a goroutine that answers pings and does nothing else. The daemon and
// the client of the busy target are processes of their own.
//
// It knows lunard and lunarctl by their command lines, and of lunar's packages only the initiator.
package main
