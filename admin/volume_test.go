package admin

import (
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/mem"
)

// byName is a driver whose volumes are told apart by the option name, as those of nbd+unix are by their socket.
func byName() *backstore.Registry {
	d := mem.Driver()
	d.Scheme, d.Options = "named", append(d.Options, "name")
	d.Key = func(u *backstore.URI) string {
		name, _ := u.Peek("name")
		return "named " + u.Path + " " + name
	}
	return backstore.NewRegistry(d)
}

// What is one volume is the driver's to say: URIs that differ only in an option may be two, and have then two disks of two names.
func TestVolumeKeyIsTheDrivers(t *testing.T) {
	for name, tgt := range map[string]bool{"lunar's names": false, "tgt's names": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, &testState{}, func(c *Config) { c.Registry, c.Target.StateDir = byName(), t.TempDir() })
			_, err := r.AddTarget(r.ctx(), spec.Target{Name: iqn + "a", Access: everybody(), NoController: true})
			r.ok(err)
			for i, option := range []string{"name=x", "name=y", "name=x"} {
				_, err := r.AddLUN(r.ctx(), Ref{Name: iqn + "a"}, spec.LUN{Number: uint16(i + 1), Volume: "named:disk?size=1M&" + option, TgtNaming: tgt}, false)
				r.ok(err)
			}
			disks := r.byName[iqn+"a"].live.Disks()
			if len(disks) != 3 {
				t.Fatalf("%d disks", len(disks))
			}
			identity := func(i int) string { return disks[i].Identity }
			if identity(0) == identity(1) || identity(0) != identity(2) {
				t.Errorf("the disks are %q, %q and %q; want the first and third to be one, and the second another", identity(0), identity(1), identity(2))
			}
			// The third is a way to the first: its removal leaves that, and its volume, open.
			r.ok(r.RemoveLUN(r.ctx(), Ref{Name: iqn + "a"}, 3, false))
			_, err = r.AddLUN(r.ctx(), Ref{Name: iqn + "a"}, spec.LUN{Number: 4, Volume: "named:disk?size=1M&name=y", TgtNaming: tgt}, false)
			r.ok(err)
			if disks = r.byName[iqn+"a"].live.Disks(); identity(1) != identity(2) {
				t.Errorf("the same volume is %q and %q", identity(1), identity(2))
			}
		})
	}
}
