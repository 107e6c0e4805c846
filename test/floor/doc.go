// Command floor is the yardstick of the benchmarks: the least work that a copying iSCSI target can do on this
// machine. One thread, one epoll set, no checks: it receives as much as there is, answers every whole PDU of
// it into one output buffer (a READ's data by pread straight into its final place), and sends each batch with
// one write. Login, INQUIRY, READ CAPACITY, MODE SENSE, REPORT LUNS and NOP are answered just well enough for
// an initiator to go on; everything else is GOOD without data.
//
//	floor --listen 127.0.0.1:3290 --file /dev/shm/disk.img
//
// It serves that file as every LUN of every target. It believes whatever it is told: never point anything but
// a benchmark at it.
//
// It knows the layout of PDUs through session/pdu and nothing else of lunar, so that a fault in lunar's own
// code cannot slow the yardstick down. Everything belongs to the one thread of main.
package main
