package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A paramKind says what values a key takes.
type paramKind uint8

const (
	paramNumber  paramKind = iota
	paramBool              // Yes or No
	paramDigests           // None, CRC32C, or both in the order of preference
)

// A param is one key that may be set at a target.
type param struct {
	name        string
	kind        paramKind
	least, most int
}

// params are tgt's keys, in its order, with the ranges that it takes; those of RFC 7143 §13 are among them, under their names.
var params = []param{
	{"MaxRecvDataSegmentLength", paramNumber, 512, 1<<24 - 1},
	{"HeaderDigest", paramDigests, 0, 0},
	{"DataDigest", paramDigests, 0, 0},
	{"InitialR2T", paramBool, 0, 0},
	{"MaxOutstandingR2T", paramNumber, 1, 65535},
	{"ImmediateData", paramBool, 0, 0},
	{"FirstBurstLength", paramNumber, 512, 1<<24 - 1},
	{"MaxBurstLength", paramNumber, 512, 1<<24 - 1},
	{"DataPDUInOrder", paramBool, 0, 0},
	{"DataSequenceInOrder", paramBool, 0, 0},
	{"ErrorRecoveryLevel", paramNumber, 0, 2},
	{"IFMarker", paramBool, 0, 0},
	{"OFMarker", paramBool, 0, 0},
	{"DefaultTime2Wait", paramNumber, 0, 3600},
	{"DefaultTime2Retain", paramNumber, 0, 3600},
	{"OFMarkInt", paramNumber, 0, 65535},
	{"IFMarkInt", paramNumber, 0, 65535},
	{"MaxConnections", paramNumber, 1, 65535},
	{"RDMAExtensions", paramBool, 0, 0},
	{"TargetRecvDataSegmentLength", paramNumber, 512, 1<<24 - 1},
	{"InitiatorRecvDataSegmentLength", paramNumber, 512, 1<<24 - 1},
	{"MaxOutstandingUnexpectedPDUs", paramNumber, 0, 1<<31 - 1},
	{"MaxXmitDataSegmentLength", paramNumber, 512, 1<<24 - 1},
	{"MaxQueueCmd", paramNumber, 1, 512},
}

// ParamNames lists the keys that may be set at a target.
func ParamNames() []string {
	names := make([]string, len(params))
	for i := range params {
		names[i] = params[i].name
	}
	return names
}

// ParamName returns a key as it is written, given in any case.
func ParamName(name string) (string, bool) {
	for i := range params {
		if strings.EqualFold(params[i].name, name) {
			return params[i].name, true
		}
	}
	return "", false
}

// CheckParam reports what is wrong with a key's value. The key is as ParamName writes it.
func CheckParam(name, value string) error {
	i := slices.IndexFunc(params, func(p param) bool { return p.name == name })
	if i < 0 {
		return fmt.Errorf("there is no such key; there are: %s", strings.Join(ParamNames(), ", "))
	}
	switch p := &params[i]; p.kind {
	case paramBool:
		if value != "Yes" && value != "No" {
			return fmt.Errorf("%q: want Yes or No", value)
		}
	case paramDigests:
		for one := range strings.SplitSeq(value, ",") {
			if one != "None" && one != "CRC32C" {
				return fmt.Errorf("%q: want None, CRC32C, or both with a comma", value)
			}
		}
	default:
		n, err := strconv.Atoi(value)
		if err != nil || n < p.least || n > p.most || name == "MaxOutstandingUnexpectedPDUs" && n == 1 {
			return fmt.Errorf("%q: want a number of %d to %d", value, p.least, p.most)
		}
	}
	return nil
}
