package initiator

import (
	"fmt"
	"strconv"
)

// Params are the values of a session. As an offer they say what we would like: a bool of the digests and ImmediateData is
// then "may be used", one of InitialR2T "is demanded", a number the most that we want. Sizes are bytes.
type Params struct {
	HeaderDigest, DataDigest  bool // CRC32C
	InitialR2T, ImmediateData bool
	MaxBurstLength            uint32
	FirstBurstLength          uint32
	MaxRecvDataSegmentLength  uint32 // what we take in one PDU
	MaxXmitDataSegmentLength  uint32 // what the target takes in one PDU; a result only
	MaxOutstandingR2T         uint16
	ErrorRecoveryLevel        uint8
}

// DefaultOffer is what lunar's own target takes whole: no R2T before 256 KiB, bursts of 1 MiB.
func DefaultOffer() Params {
	return Params{
		InitialR2T: false, ImmediateData: true,
		MaxBurstLength: 1 << 20, FirstBurstLength: 256 << 10, MaxRecvDataSegmentLength: DefaultMaxRecv,
		MaxOutstandingR2T: 8,
	}
}

// String returns the values in the standard's words on one line.
func (p Params) String() string {
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

// Keys returns the operational keys that offer p (RFC 7143 §13).
func (p Params) Keys() Keys {
	d := map[bool]string{true: "CRC32C,None", false: "None"}
	return Keys{
		{"HeaderDigest", d[p.HeaderDigest]}, {"DataDigest", d[p.DataDigest]},
		{"InitialR2T", yesNo(p.InitialR2T)}, {"ImmediateData", yesNo(p.ImmediateData)},
		{"MaxRecvDataSegmentLength", fmt.Sprint(p.MaxRecvDataSegmentLength)},
		{"MaxBurstLength", fmt.Sprint(p.MaxBurstLength)}, {"FirstBurstLength", fmt.Sprint(p.FirstBurstLength)},
		{"MaxOutstandingR2T", fmt.Sprint(p.MaxOutstandingR2T)}, {"MaxConnections", "1"},
		{"DefaultTime2Wait", "2"}, {"DefaultTime2Retain", "0"}, {"ErrorRecoveryLevel", fmt.Sprint(p.ErrorRecoveryLevel)},
		{"DataPDUInOrder", "Yes"}, {"DataSequenceInOrder", "Yes"},
	}
}

// Agree returns what holds after the target answered the offer p. An answer that the standard does not allow to
// that offer is an error; a key that the target left out keeps its default (RFC 7143 §13).
func (p Params) Agree(answer Keys) (Params, error) {
	r := p
	r.HeaderDigest, r.DataDigest = false, false
	r.InitialR2T, r.ImmediateData = true, p.ImmediateData
	r.MaxBurstLength = min(p.MaxBurstLength, 262144)
	r.FirstBurstLength = min(p.FirstBurstLength, 65536)
	r.MaxXmitDataSegmentLength = 8192
	r.MaxOutstandingR2T = 1
	r.ErrorRecoveryLevel = 0
	for _, k := range answer {
		var err error
		switch k.Name {
		case "HeaderDigest":
			r.HeaderDigest, err = agreeDigest(k.Value, p.HeaderDigest)
		case "DataDigest":
			r.DataDigest, err = agreeDigest(k.Value, p.DataDigest)
		case "InitialR2T": // OR: a demand of ours stands
			if r.InitialR2T, err = agreeBool(k.Value); err == nil && p.InitialR2T && !r.InitialR2T {
				err = fmt.Errorf("we demanded Yes")
			}
		case "ImmediateData": // AND
			if r.ImmediateData, err = agreeBool(k.Value); err == nil && r.ImmediateData && !p.ImmediateData {
				err = fmt.Errorf("we offered No")
			}
		case "MaxBurstLength":
			r.MaxBurstLength, err = agreeNumber(k.Value, 512, p.MaxBurstLength)
		case "FirstBurstLength":
			r.FirstBurstLength, err = agreeNumber(k.Value, 512, p.FirstBurstLength)
		case "MaxRecvDataSegmentLength": // declared, not negotiated
			r.MaxXmitDataSegmentLength, err = agreeNumber(k.Value, 512, 1<<24-1)
		case "MaxOutstandingR2T":
			var n uint32
			n, err = agreeNumber(k.Value, 1, uint32(p.MaxOutstandingR2T))
			r.MaxOutstandingR2T = uint16(n)
		case "ErrorRecoveryLevel":
			var n uint32
			n, err = agreeNumber(k.Value, 0, uint32(p.ErrorRecoveryLevel))
			r.ErrorRecoveryLevel = uint8(n)
		case "DataPDUInOrder", "DataSequenceInOrder":
			var yes bool
			if yes, err = agreeBool(k.Value); err == nil && !yes {
				err = fmt.Errorf("we demanded Yes")
			}
		}
		if err != nil {
			return r, fmt.Errorf("the target answered %s=%s: %w", k.Name, k.Value, err)
		}
	}
	if r.FirstBurstLength > r.MaxBurstLength {
		return r, fmt.Errorf("the target left FirstBurstLength=%d above MaxBurstLength=%d", r.FirstBurstLength, r.MaxBurstLength)
	}
	return r, nil
}

func agreeDigest(v string, offered bool) (bool, error) {
	switch {
	case v == "None":
		return false, nil
	case v == "CRC32C" && offered:
		return true, nil
	}
	return false, fmt.Errorf("not offered")
}

func agreeBool(v string) (bool, error) {
	switch v {
	case "Yes":
		return true, nil
	case "No":
		return false, nil
	}
	return false, fmt.Errorf("neither Yes nor No")
}

func agreeNumber(v string, lo, hi uint32) (uint32, error) {
	n, err := strconv.ParseUint(v, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("not a number")
	}
	if uint32(n) < lo || uint32(n) > hi {
		return 0, fmt.Errorf("not within %d-%d", lo, hi)
	}
	return uint32(n), nil
}
