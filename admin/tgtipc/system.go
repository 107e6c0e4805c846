package tgtipc

import (
	"context"
	"fmt"
	"strings"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/internal/tgtvolume"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

func (c *call) system(ctx context.Context) (string, error) {
	switch c.Op {
	case OpShow:
		return c.showSystem(), nil
	case OpStats:
		return statHeader + targetStats(c.svc.Targets(true)), nil
	case OpUpdate:
		return "", c.updateSystem(ctx)
	case OpDelete:
		// The socket's file stays, and the answer goes out before the listener is closed: see Server.Close.
		err := c.svc.Shutdown(ctx, true)
		if err != nil && admin.CodeOf(err) == admin.TargetInUse {
			err = &numbered{ErrInvalidRequest, err}
		}
		return "", err
	}
	return "", c.notThere(ErrInvalidRequest)
}

// updateSystem sets debug, or a list of other things. Of a list everything that is right is done, and the last one says whether the
// whole was: so tgtd.
func (c *call) updateSystem(ctx context.Context) error {
	if v, ok := strings.CutPrefix(c.payload, "debug="); ok {
		on := strings.HasPrefix(v, "on")
		if !on && !strings.HasPrefix(v, "off") {
			return refuse(ErrInvalidRequest, "debug=%s: want on or off", v)
		}
		return c.svc.EditSystem(ctx, func(s *spec.System) error { s.Debug = on; return nil })
	}
	if c.payload == "" {
		return refuse(ErrInvalidRequest, "nothing to update is named")
	}
	var edits []func(*spec.System)
	var last error
	for _, kv := range tokens(c.payload) {
		var edit func(*spec.System)
		if edit, last = systemEdit(kv); last == nil {
			edits = append(edits, edit)
		}
	}
	if len(edits) > 0 {
		err := c.svc.EditSystem(ctx, func(s *spec.System) error {
			for _, edit := range edits {
				edit(s)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return last
}

// systemEdit is what one KEY=VALUE changes.
func systemEdit(kv string) (func(*spec.System), error) {
	key, v, _ := strings.Cut(kv, "=")
	if v == "" {
		return nil, refuse(ErrInvalidRequest, "system update %q: no value", kv)
	}
	switch key {
	case "State":
		if v != "ready" && v != "offline" {
			return nil, refuse(ErrInvalidRequest, "State=%s: want ready or offline", v)
		}
		return func(s *spec.System) { s.Offline = v == "offline" }, nil
	case "iSNS":
		switch v {
		case "Off":
			return func(*spec.System) {}, nil
		case "On":
			return nil, refuse(ErrUnsupported, "lunar is no iSNS client: it keeps and shows the settings, but registers nowhere")
		}
		return nil, refuse(ErrInvalidRequest, "iSNS=%s: want On or Off", v)
	case "iSNSServerIP":
		return func(s *spec.System) { s.ISNS.Server = v }, nil
	case "iSNSServerPort":
		n, rest, ok := tgtvolume.Number(v)
		if !ok || rest != "" || n < 0 || n > 65535 {
			return nil, refuse(ErrInvalidRequest, "iSNSServerPort=%s: want a port", v)
		}
		return func(s *spec.System) { s.ISNS.Port = int(n) }, nil
	case "iSNSAccessControl":
		return func(s *spec.System) { s.ISNS.AccessControl = v == "On" }, nil
	}
	return nil, refuse(ErrInvalidRequest, "there is no system setting %q; there are debug, State, iSNS, iSNSServerIP, iSNSServerPort, iSNSAccessControl", key)
}

// backingStores are what Debian's tgtd lists of itself. Those that only other devices than disks have are refused when one is made.
const backingStores = "    sheepdog\n    bsg\n    sg\n    null\n    ssc\n    smc (bsoflags sync:direct)\n    mmc (bsoflags sync:direct)\n" +
	"    rdwr (bsoflags sync:direct)\n    aio\n"

const deviceTypes = "    disk\n    cd/dvd\n    osd\n    controller\n    changer\n    tape\n    passthrough\n"

func (c *call) showSystem() string {
	sys, doc := c.svc.System(), c.svc.Document()
	var b strings.Builder
	fmt.Fprintf(&b, "System:\n    State: %s\n    debug: %s\nLLDs:\n    %s: %s\n    %s: error\nBacking stores:\n", state(sys.Spec.Offline),
		pick(sys.Spec.Debug, "on", "off"), iscsi, c.iscsiState(), iser)
	for _, s := range loadable {
		if c.hasDriver(s.scheme) {
			fmt.Fprintf(&b, "    %s\n", s.shown)
		}
	}
	b.WriteString(backingStores + "Device types:\n" + deviceTypes)
	if d := &doc.Discovery; len(d.Incoming) > 0 {
		b.WriteString("    Account information:\n\n")
		writeAccounts(&b, "    ", d)
	}
	isns := &sys.Spec.ISNS
	port := isns.Port
	if port == 0 {
		port = 3205
	}
	fmt.Fprintf(&b, "iSNS:\n    iSNS=Off\n    iSNSServerIP=%s\n    iSNSServerPort=%d\n    iSNSAccessControl=%s\n", isns.Server, port,
		pick(isns.AccessControl, "On", "Off"))
	return b.String()
}

func writeAccounts(b *strings.Builder, indent string, a *spec.Auth) {
	for _, name := range a.Incoming {
		fmt.Fprintf(b, "%s%s\n", indent, name)
	}
	if a.Outgoing != "" {
		fmt.Fprintf(b, "%s%s (outgoing)\n", indent, a.Outgoing)
	}
}

func state(offline bool) string { return pick(offline, "offline", "ready") }

func pick(is bool, yes, no string) string {
	if is {
		return yes
	}
	return no
}

func yesNo(v bool) string { return pick(v, "Yes", "No") }

// tokens splits a list at its commas; empty ones are none.
func tokens(s string) []string { return strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) }
