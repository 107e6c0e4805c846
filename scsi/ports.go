package scsi

import "slices"

// A port is a target port through which the LU can be reached.
type port struct {
	target   string
	group    uint16
	relative uint16
	gone     bool // it leads here no more, and goes with the last nexus that uses it
}

// SetPorts says through which ports of an iSCSI target (its normalised name) the LU can be reached: those of these portal group tags. What is
// registered for all target ports is so for those known then. A port that is not among them any more is forgotten when no nexus
// uses it; what is registered through it stays.
func (lu *LU) SetPorts(target string, groups []uint16) {
	for i := range lu.ports {
		if p := &lu.ports[i]; p.target == target {
			p.gone = true
		}
	}
	for _, g := range groups {
		lu.usePort(target, g, lu.id.relativePort(g)).gone = false
	}
	lu.dropPorts()
}

// Ports returns the portal group tags of the ports of an iSCSI target through which the LU can be reached, ascending.
func (lu *LU) Ports(target string) (groups []uint16) {
	for _, p := range lu.ports {
		if p.target == target {
			groups = append(groups, p.group)
		}
	}
	slices.Sort(groups)
	return groups
}

// usePort returns the port. One that is not known is there for the nexus that uses it.
func (lu *LU) usePort(target string, group, relative uint16) *port {
	for i := range lu.ports {
		if p := &lu.ports[i]; p.target == target && p.group == group {
			return p
		}
	}
	lu.ports = append(lu.ports, port{target: target, group: group, relative: relative, gone: true})
	return &lu.ports[len(lu.ports)-1]
}

// dropPorts forgets the ports that lead here no more and that no nexus uses.
func (lu *LU) dropPorts() {
	if !slices.ContainsFunc(lu.ports, func(p port) bool { return p.gone }) {
		return
	}
	lu.ports = slices.DeleteFunc(lu.ports, func(p port) bool {
		return p.gone && !slices.ContainsFunc(lu.nexuses, func(n *NexusLU) bool {
			return n.Nexus.Target == p.target && n.Nexus.PortGroup == p.group
		})
	})
}
