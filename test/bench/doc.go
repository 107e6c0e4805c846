// Command bench measures lunard beside its peers (tgtd, istgt, gotgt) and the floor, in one run, with one client: it starts
// each server by itself on a free port with the same files, holds a second session on every target, runs the rows in
// interleaved rounds, takes each server's processor time from /proc, and prints medians, spread and the goals beside them.
// The table goes to the terminal and as Markdown to a file.
//
//	go run ./test/bench                                       every row
//	go run ./test/bench --list                                what rows there are
//	go run ./test/bench --row read4k-32,write4k-32 --rounds 9 --seconds 5
//	go run ./test/bench --row read4k-32 --server 'limit=/path/limit {port} {file}'
//
// docs/bench/README.md says what makes a run count and how to read it.
//
// The parts: rows.go is the table of what is measured and what it must reach; server.go and peers.go start and stop
// servers; client.go runs `lunarctl bench --json`; round.go interleaves; figures.go and goals.go judge; report.go writes.
// It knows lunard and lunarctl by their command lines, and of their packages only the client's pattern and report, and the
// initiator for the second sessions. Everything runs on main's goroutine, which keeps its thread: the servers die with it.
//
// Peers' programs come from scripts/test-deps, gotgt from the module in test/peers. A server that cannot be had is named
// in every row with the reason.
package main
