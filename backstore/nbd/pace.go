package nbd

import "time"

// A server that answers at once is served best through one connection: what is asked and what is answered then goes in few system calls.
// One that has to wait for something works on some perConn requests of a connection at once, so that more connections are more of its
// parallelism. Which of both it is, is measured.
const (
	// slowServer is the time for perConn requests from which on connections are worth their system calls: below it one connection carries more
	// requests a second than a processor can make.
	slowServer = 250 * time.Microsecond
	paceShare  = 8 // the newest measurement is one part of so many
)

// A pace is how long a server takes, by one request at a time that is timed. The store's lock guards it.
type pace struct {
	timing bool
	slot   uint16
	begun  time.Time
	beside int           // requests in flight on its connection, itself included
	mean   time.Duration // for perConn requests at once
}

// begin times the request of slot i, if none is being timed.
func (p *pace) begin(i uint16, beside int, now func() time.Time) {
	if !p.timing {
		*p = pace{timing: true, slot: i, begun: now(), beside: beside, mean: p.mean}
	}
}

// end takes the time of the request of slot i, if that is the one. Of a request that was sent again it says nothing of the server's pace.
func (p *pace) end(i uint16, again bool, now func() time.Time) {
	if !p.timing || p.slot != i {
		return
	}
	p.timing = false
	if again {
		return
	}
	took := now().Sub(p.begun) * perConn / time.Duration(max(p.beside, perConn))
	p.mean += (took - p.mean) / paceShare
}

// slow reports whether requests are to be spread over the connections.
func (p *pace) slow() bool { return p.mean > slowServer }
