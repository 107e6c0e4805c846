package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// printHints says how to attach what is served.
func printHints(w io.Writer, portal netip.AddrPort, exports []export) {
	host, port := portal.Addr().String(), strconv.Itoa(int(portal.Port()))
	if portal.Addr().IsUnspecified() {
		host = "THIS-HOST"
	}
	addr := net.JoinHostPort(host, port)
	e := exports[0]
	url := fmt.Sprintf("iscsi://%s/%s/%d", addr, e.target, e.lun)
	fmt.Fprintf(w, "Serving on %s:\n", addr)
	for _, e := range exports {
		fmt.Fprintf(w, "  %s LUN %d: %s\n", e.target, e.lun, e.uri)
	}
	fmt.Fprint(w, strings.NewReplacer("ADDR", addr, "HOST", host, "PORT", port, "IQN", e.target, "URL", url).Replace(`
Try it at once, without root (Debian: libiscsi-bin; qemu-utils with qemu-block-extra):
  iscsi-ls -s iscsi://ADDR
  qemu-io -f raw -c 'write -P 0xa5 1M 64k' -c 'read -P 0xa5 1M 64k' URL

Linux (open-iscsi):
  sudo iscsiadm -m discovery -t sendtargets -p ADDR
  sudo iscsiadm -m node -T IQN -p ADDR --login

Windows (PowerShell as administrator):
  Start-Service MSiSCSI
  New-IscsiTargetPortal -TargetPortalAddress HOST -TargetPortalPortNumber PORT
  Connect-IscsiTarget -NodeAddress IQN

ESXi:
  esxcli iscsi software set --enabled=true
  esxcli iscsi adapter discovery sendtarget add --adapter=vmhba64 --address=ADDR
  esxcli storage core adapter rescan --adapter=vmhba64

Ctrl-C asks the initiators to log out and ends.
`))
}
