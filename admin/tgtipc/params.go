package tgtipc

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/internal/tgtvolume"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

// A keyKind says what values a negotiation key takes.
type keyKind uint8

const (
	keyNumber keyKind = iota
	keyBool
	keyDigests
	keyMarkInt // obsolete: anything, which is not kept
)

// A key is a negotiation key of a target: what tgtd takes for it, and shows where nothing is set. lunar negotiates its own better
// default then.
type key struct {
	name        string
	kind        keyKind
	least, most int64
	shown       string
}

const maxSegment = 1<<24 - 1

// keys are in the order in which they are shown.
var keys = []key{
	{"MaxRecvDataSegmentLength", keyNumber, 512, maxSegment, "8192"},
	{"HeaderDigest", keyDigests, 0, 0, "None"},
	{"DataDigest", keyDigests, 0, 0, "None"},
	{"InitialR2T", keyBool, 0, 0, "Yes"},
	{"MaxOutstandingR2T", keyNumber, 1, 65535, "1"},
	{"ImmediateData", keyBool, 0, 0, "Yes"},
	{"FirstBurstLength", keyNumber, 512, maxSegment, "65536"},
	{"MaxBurstLength", keyNumber, 512, maxSegment, "262144"},
	{"DataPDUInOrder", keyBool, 0, 0, "Yes"},
	{"DataSequenceInOrder", keyBool, 0, 0, "Yes"},
	{"ErrorRecoveryLevel", keyNumber, 0, 2, "0"},
	{"IFMarker", keyBool, 0, 0, "No"},
	{"OFMarker", keyBool, 0, 0, "No"},
	{"DefaultTime2Wait", keyNumber, 0, 3600, "2"},
	{"DefaultTime2Retain", keyNumber, 0, 3600, "20"},
	{"OFMarkInt", keyMarkInt, 0, 0, "Reject"},
	{"IFMarkInt", keyMarkInt, 0, 0, "Reject"},
	{"MaxConnections", keyNumber, 1, 65535, "1"},
	{"RDMAExtensions", keyBool, 0, 0, "Yes"},
	{"TargetRecvDataSegmentLength", keyNumber, 512, maxSegment, "262144"},
	{"InitiatorRecvDataSegmentLength", keyNumber, 512, maxSegment, "262144"},
	{"MaxOutstandingUnexpectedPDUs", keyNumber, 0, math.MaxInt32, "0"},
	{"MaxXmitDataSegmentLength", keyNumber, 512, maxSegment, "8192"},
	{"MaxQueueCmd", keyNumber, 1, 512, "128"},
}

// value checks a value of the key and returns it as it is kept.
func (k *key) value(v string) (string, error) {
	switch k.kind {
	case keyBool:
		if v != "Yes" && v != "No" {
			return "", refuse(ErrInvalidRequest, "%s=%s: want Yes or No", k.name, v)
		}
	case keyDigests:
		for one := range strings.SplitSeq(v, ",") {
			if one != "None" && one != "CRC32C" {
				return "", refuse(ErrInvalidRequest, "%s=%s: want None, CRC32C, or both with a comma", k.name, v)
			}
		}
		if strings.Contains(v, "CRC32C") {
			return "CRC32C,None", nil // whichever the initiator wants: tgtd turns nobody away for it
		}
	case keyMarkInt:
		return "0", nil
	default:
		n, _, ok := tgtvolume.Number(v)
		if !ok || n < k.least || n > k.most || k.name == "MaxOutstandingUnexpectedPDUs" && n == 1 {
			return "", refuse(ErrInvalidRequest, "%s=%s: want a number of %d to %d", k.name, v, k.least, k.most)
		}
		return strconv.FormatInt(n, 10), nil
	}
	return v, nil
}

// text is what is shown for the key, given what is set.
func (k *key) text(set map[string]string) string {
	v, ok := set[k.name]
	switch {
	case !ok:
		return k.shown
	case k.kind == keyMarkInt:
		return "Irrelevant"
	case k.kind == keyDigests && strings.Contains(v, "CRC32C"):
		return "CRC32C"
	}
	return v
}

// updateTarget sets one KEY=VALUE; the value may have commas. New values are for logins that come later.
func (c *call) updateTarget(ctx context.Context) error {
	name, v, ok := strings.Cut(c.payload, "=")
	if c.payload == "" {
		return refuse(ErrInvalidRequest, "nothing to update is named")
	}
	if !ok {
		return refuse(ErrUnsupported, "target update %q: want KEY=VALUE", c.payload)
	}
	if _, err := c.find(false); err != nil {
		return err
	}
	edit, err := targetEdit(name, v)
	if err != nil {
		return err
	}
	return c.svc.EditTarget(ctx, c.ref(), func(t *spec.Target) error { edit(t); return nil })
}

// targetEdit is what KEY=VALUE changes. Of redirection tgtd compares the key up to its length only.
func targetEdit(name, v string) (func(*spec.Target), error) {
	own := func(key string) bool { return strings.HasPrefix(name, key) }
	switch {
	case name == "state":
		if v != "ready" && v != "offline" {
			return nil, refuse(ErrInvalidRequest, "state=%s: want ready or offline", v)
		}
		return func(t *spec.Target) { t.Offline = v == "offline" }, nil
	case name == "nop_interval", name == "nop_count":
		n := tgtvolume.Decimal(v)
		if n < 0 || n > spec.MaxNop {
			return nil, refuse(ErrInvalidRequest, "%s=%s: want a number of 0 to %d", name, v, spec.MaxNop)
		}
		return func(t *spec.Target) {
			if name == "nop_count" {
				t.NopCount = int(n)
			} else {
				t.NopInterval = int(n)
			}
		}, nil
	case own("RedirectAddress"):
		return func(t *spec.Target) { t.Redirect.Address = v }, nil
	case own("RedirectPort"):
		n, rest, ok := tgtvolume.Number(v)
		if v != "" && (!ok || rest != "" || n < 1 || n > 65535) {
			return nil, refuse(ErrInvalidRequest, "RedirectPort=%s: want a port", v)
		}
		return func(t *spec.Target) { t.Redirect.Port = int(n) }, nil
	case own("RedirectReason"):
		permanent := strings.HasPrefix(v, "Permanent")
		if !permanent && !strings.HasPrefix(v, "Temporary") {
			return nil, refuse(ErrInvalidRequest, "RedirectReason=%s: want Temporary or Permanent", v)
		}
		return func(t *spec.Target) { t.Redirect.Permanent, t.Redirect.Temporary = permanent, !permanent }, nil
	case own("RedirectCallback"):
		// Shown and never run: whoever may write to this socket would else have a shell.
		return func(t *spec.Target) { t.Redirect.Callback = v }, nil
	}
	for i := range keys {
		if k := &keys[i]; strings.EqualFold(k.name, name) {
			kept, err := k.value(v)
			if err != nil {
				return nil, err
			}
			return func(t *spec.Target) {
				if t.Params == nil {
					t.Params = map[string]string{}
				}
				t.Params[k.name] = kept
			}, nil
		}
	}
	return nil, refuse(ErrInvalidRequest, "targets have no parameter %q", name)
}

// showParams lists a target's parameters; of one that sends initiators elsewhere, where to.
func showParams(t *spec.Target) string {
	var b strings.Builder
	switch r := &t.Redirect; {
	case r.Callback != "":
		fmt.Fprintf(&b, "RedirectCallback=%s\n", r.Callback)
	case r.Address != "":
		port, reason := "", "Unknown"
		if r.Port != 0 {
			port = strconv.Itoa(r.Port)
		}
		switch {
		case r.Permanent:
			reason = "Permanent"
		case r.Temporary:
			reason = "Temporary"
		}
		fmt.Fprintf(&b, "RedirectAddress=%s\nRedirectPort=%s\nRedirectReason=%s\n", r.Address, port, reason)
	default:
		fmt.Fprintf(&b, "nop_interval=%d\nnop_count=%d\n", t.NopInterval, t.NopCount)
		for i := range keys {
			fmt.Fprintf(&b, "%s=%s\n", keys[i].name, keys[i].text(t.Params))
		}
	}
	return b.String()
}
