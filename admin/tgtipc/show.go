package tgtipc

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
)

// showTargets lists targets in full, by ascending TID.
func showTargets(ts []admin.TargetState) string {
	var b strings.Builder
	for i := range ts {
		writeTarget(&b, &ts[i])
	}
	return b.String()
}

func writeTarget(b *strings.Builder, t *admin.TargetState) {
	s := &t.Spec
	fmt.Fprintf(b, "Target %d: %s\n    System information:\n        Driver: %s\n        State: %s\n", s.TID, s.Name, iscsi, state(s.Offline))
	if s.NopInterval != 0 {
		fmt.Fprintf(b, "        Nop interval: %d\n        Nop count: %d\n", s.NopInterval, s.NopCount)
	}
	b.WriteString("    I_T nexus information:\n")
	for i := range t.Live.Sessions {
		writeNexus(b, &t.Live.Sessions[i])
	}
	b.WriteString("    LUN information:\n")
	if !s.NoController {
		writeLUN(b, shownLUN{kind: "controller", id: scsiID(s.TID, 0), sn: serial(s.TID, 0), block: 1, online: true,
			store: spec.TgtStore{Type: "null"}})
	}
	for i := range s.LUNs {
		writeLUN(b, diskOf(t, &s.LUNs[i]))
	}
	b.WriteString("    Account information:\n")
	writeAccounts(b, "        ", &s.Auth)
	b.WriteString("    ACL information:\n")
	// Addresses, then names: lists of their own in tgtd. A rule that wants both is shown as an address that says so.
	for _, r := range s.Access {
		switch {
		case r.Address != "" && r.Initiator != "":
			fmt.Fprintf(b, "        %s,%s%s\n", r.Address, nameKey, r.Initiator)
		case r.Address != "":
			fmt.Fprintf(b, "        %s\n", r.Address)
		}
	}
	for _, r := range s.Access {
		if r.Address == "" {
			fmt.Fprintf(b, "        %s\n", r.Initiator)
		}
	}
}

func writeNexus(b *strings.Builder, s *target.SessionInfo) {
	alias := s.Alias
	if alias == "" {
		alias = "none"
	}
	fmt.Fprintf(b, "        I_T nexus: %d\n            Initiator: %s alias: %s\n", s.TSIH, s.Initiator, alias)
	if len(s.Conns) > 0 { // tgtd shows the first only
		fmt.Fprintf(b, "            Connection: %d\n                IP Address: %s\n", s.Conns[0].CID, peerText(&s.Conns[0]))
	}
}

func peerText(c *target.ConnInfo) string { return c.Remote.Addr().Unmap().String() }

// A shownLUN is what is shown of a LUN.
type shownLUN struct {
	lun                                             uint64
	kind, id, sn                                    string
	size                                            int64
	block                                           int
	online, removable, prevent, readOnly, swp, thin bool
	store                                           spec.TgtStore
}

func writeLUN(b *strings.Builder, l shownLUN) {
	path := l.store.Path
	if path == "" {
		path = "None"
	}
	fmt.Fprintf(b, "        LUN: %d\n            Type: %s\n            SCSI ID: %s\n            SCSI SN: %s\n            Size: %d MB, Block size: %d\n",
		l.lun, l.kind, l.id, l.sn, megabytes(l.size), l.block)
	fmt.Fprintf(b, "            Online: %s\n            Removable media: %s\n            Prevent removal: %s\n            Readonly: %s\n            SWP: %s\n",
		yesNo(l.online), yesNo(l.removable), yesNo(l.prevent), yesNo(l.readOnly), yesNo(l.swp))
	fmt.Fprintf(b, "            Thin-provisioning: %s\n            Backing store type: %s\n            Backing store path: %s\n            Backing store flags: %s\n",
		yesNo(l.thin), l.store.Type, path, l.store.Flags)
}

// diskOf is what is shown of a disk: what was set, and what is so.
func diskOf(t *admin.TargetState, l *spec.LUN) shownLUN {
	d := shownLUN{lun: uint64(l.Number), kind: "disk", id: l.SCSIID, sn: l.Serial, block: max(l.BlockSize, 512), removable: l.Removable, readOnly: l.ReadOnly,
		store: shownStore(l)}
	i := slices.IndexFunc(t.Live.LUNs, func(li target.LUNInfo) bool { return li.LUN == l.Number && !li.Controller })
	var live target.LUNInfo // where the disk is not there, its volume could not be opened
	if i >= 0 {
		live = t.Live.LUNs[i]
		if live.BlockSize > 0 {
			d.block = live.BlockSize
		}
	}
	d.size, d.online, d.prevent, d.swp = live.Size, live.Online, live.PreventRemoval, live.SWP
	d.readOnly = l.ReadOnly || live.ReadOnly && !live.SWP
	d.thin = live.Thin
	if l.Thin != nil {
		d.thin = *l.Thin
	}
	if l.TgtNaming {
		if d.id == "" {
			d.id = scsiID(t.Spec.TID, l.Number)
		}
		if d.sn == "" {
			d.sn = serial(t.Spec.TID, l.Number)
		}
		return d
	}
	if d.id == "" {
		d.id = fmt.Sprintf("naa.%016x", live.NAA)
	}
	if d.sn == "" {
		d.sn = live.Serial
	}
	return d
}

// scsiID and serial are tgt's: TID and LUN in hex, and in decimal without anything between them, so that TID 1 LUN 11 and TID 11 LUN 1
// share one.
func scsiID(tid int, lun uint16) string { return fmt.Sprintf("IET     %04x%04x", tid, lun) }
func serial(tid int, lun uint16) string { return fmt.Sprintf("beaf%d%d", tid, lun) }

// megabytes rounds as tgtd does.
func megabytes(size int64) int64 {
	s := size / 512
	return (s - (s/625 - 974)) / 1950
}
