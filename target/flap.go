package target

import (
	"net/netip"

	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// A flapGuard notices two initiators that share one name and ISID: each login throws the other out, for ever. The usual cause is a
// cloned machine image. It goes from each session to the one that takes its place.
type flapGuard struct {
	last  int64
	count int
}

const (
	// flapWindow is how soon, in ns, a reinstatement from another address counts as flapping.
	flapWindow = 60e9
	// flapCount is how many in a row are named in the log.
	flapCount = 3
)

// note takes a session reinstatement of nexus, whose old session came from was and whose new one comes from is.
func (f *flapGuard) note(log Logger, nexus sam.Nexus, was, is netip.AddrPort, now int64) {
	if was.Addr() == is.Addr() {
		return
	}
	if now-f.last > flapWindow {
		f.count = 0
	}
	f.last = now
	if f.count++; f.count == flapCount {
		log.Warn("two initiators use one name and ISID and throw each other out; give each its own InitiatorName",
			"initiator", nexus.Initiator, "addresses", was.Addr().String()+" "+is.Addr().String())
		f.count = 0
	}
}
