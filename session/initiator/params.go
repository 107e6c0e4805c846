package initiator

import (
	"fmt"
	"slices"

	"github.com/lunar-iscsi/lunar/session/login"
)

// Params are the values of a session; as an offer, what we would like (see login.Params).
type Params = login.Params

// DefaultOffer is what lunar's own target takes whole: no R2T before 256 KiB, bursts of 1 MiB, no digests.
func DefaultOffer() Params {
	p := login.RFCDefaults()
	p.InitialR2T, p.ImmediateData = false, true
	p.MaxBurstLength, p.FirstBurstLength, p.MaxRecvDataSegmentLength = 1<<20, 256<<10, DefaultMaxRecv
	p.MaxOutstandingR2T = 8
	p.DefaultTime2Retain = 0
	return p
}

// FormatParams returns the values that matter to data transfer, in the standard's words on one line.
func FormatParams(p *Params) string {
	return fmt.Sprintf("HeaderDigest=%s DataDigest=%s InitialR2T=%s ImmediateData=%s FirstBurstLength=%d MaxBurstLength=%d "+
		"MaxRecvDataSegmentLength=%d (target's %d) MaxOutstandingR2T=%d ErrorRecoveryLevel=%d",
		digest(p.HeaderDigest), digest(p.DataDigest), yesNo(p.InitialR2T), yesNo(p.ImmediateData), p.FirstBurstLength, p.MaxBurstLength,
		p.MaxRecvDataSegmentLength, p.MaxXmitDataSegmentLength, p.MaxOutstandingR2T, p.ErrorRecoveryLevel)
}

func yesNo(b bool) string {
	if b {
		return "Yes"
	}
	return "No"
}

func digest(b bool) string {
	if b {
		return "CRC32C"
	}
	return "None"
}

// laterKeys came with RFC 7143 and 7144. There are targets that drop the connection at a key they do not know.
var laterKeys = []string{"TaskReporting", "iSCSIProtocolLevel"}

// negotiate walks the operational stage with our offer and the extra keys, answering what the target offers itself.
// Lenient leaves the later keys out, which then have their defaults.
func negotiate(c *Conn, own Params, t login.SessionType, extra Keys, itt uint32, lenient bool) (Params, error) {
	o := login.NewOffer(own, t, true)
	keys, err := ParseKeys(o.AppendKeys(nil))
	if err != nil {
		return own, err
	}
	if lenient {
		keys = slices.DeleteFunc(keys, func(k Key) bool { return slices.Contains(laterKeys, k.Name) })
	}
	for _, k := range extra {
		keys = keys.With(k.Name, k.Value)
	}
	err = c.loginStage(itt, stageOperational, keys, func(answer Keys) (Keys, error) {
		var reply []byte
		for _, k := range answer {
			var err error
			if reply, err = o.Take(reply, k); err != nil {
				return nil, fmt.Errorf("the target's answer: %w", err)
			}
		}
		return ParseKeys(reply)
	})
	return o.Params(), err
}
