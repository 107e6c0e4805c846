package admin

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// A saved portal whose address somebody else has ends the start, and says so; with a portal of the run it is left out, still saved,
// and can be removed. One that the command line names too is bound once, and stays saved.
func TestSavedPortal(t *testing.T) {
	st := &testState{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := netip.MustParseAddrPort(l.Addr().String())
	st.objects = map[string][]byte{keyPortals: []byte(`[{"address":"` + taken.String() + `"}]`)}
	r := newRig(t, st)
	if err := r.LoadPortals(); CodeOf(err) != OpenFailed || !strings.Contains(err.Error(), taken.String()) || !strings.Contains(err.Error(), "--portal") {
		t.Error(err)
	}
	r.ok(r.Close())
	r = newRig(t, st)
	own, err := r.PassingPortals(r.ctx(), []spec.Portal{{Address: "127.0.0.1:0"}}, false)
	r.ok(err)
	r.ok(r.LoadPortals())
	if p := r.Portals(); len(p) != 2 || p[1].Bound.IsValid() {
		t.Errorf("%+v", p)
	}
	again, err := r.AddPortal(r.ctx(), spec.Portal{Address: "127.0.0.1:0", Group: 2})
	r.ok(err)
	if !strings.Contains(string(st.Objects()[keyPortals]), taken.String()) {
		t.Errorf("saved is %s", st.Objects()[keyPortals])
	}
	r.ok(r.RemovePortal(r.ctx(), taken))
	if s := string(st.Objects()[keyPortals]); strings.Contains(s, taken.String()) || strings.Contains(s, own[0].Bound.String()) {
		t.Errorf("saved is %s", s)
	}
	r.ok(r.RemovePortal(r.ctx(), again.Bound))
	free := own[0].Bound
	r.ok(r.Close())

	st.objects[keyPortals] = []byte(`[{"address":"` + free.String() + `"}]`)
	r = newRig(t, st)
	_, err = r.PassingPortals(r.ctx(), []spec.Portal{{Address: free.String()}}, false)
	r.ok(err)
	r.ok(r.LoadPortals())
	_, err = r.AddPortal(r.ctx(), spec.Portal{Address: "127.0.0.1:0"})
	r.ok(err)
	if s := string(st.Objects()[keyPortals]); len(r.Portals()) != 2 || !strings.Contains(s, free.String()) {
		t.Errorf("portals %+v, saved %s", r.Portals(), s)
	}
}
