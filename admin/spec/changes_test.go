package spec

import (
	"strings"
	"testing"
)

// What is told of a change says what changes, on one line, and nothing secret.
func TestChanges(t *testing.T) {
	base := func() Target {
		return Target{Name: "iqn.e:a", Access: []Rule{{Address: "ALL"}}, LUNMaps: []LUNMap{{Initiator: "*"}}, Params: map[string]string{"InitialR2T": "No"}}
	}
	yes := true
	for name, c := range map[string]struct {
		edit func(*Target)
		want string
	}{
		"nothing":    {func(*Target) {}, ""},
		"empty list": {func(t *Target) { t.PortalGroups = []uint16{} }, ""},
		"access":     {func(t *Target) { t.Access = []Rule{{Address: "10.0.0.0/8"}} }, `access: [{"address":"ALL"}] -> [{"address":"10.0.0.0/8"}]`},
		"nobody":     {func(t *Target) { t.Access = nil }, `access: [{"address":"ALL"}] -> []`},
		"many": {func(t *Target) {
			for range 50 {
				t.Access = append(t.Access, Rule{Address: "10.0.0.0/8"})
			}
		}, "access: 1 -> 51 of them"},
		"several":  {func(t *Target) { t.Alias, t.Offline = "x", true }, `alias: "" -> "x", offline: false -> true`},
		"params":   {func(t *Target) { t.Params = map[string]string{"MaxBurstLength": "512"} }, `params.InitialR2T: "No" -> none, params.MaxBurstLength: none -> "512"`},
		"callback": {func(t *Target) { t.Redirect.Callback = "hush" }, "redirect.callback changed"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := base(), base()
			c.edit(&b)
			if got := Changes(a, b); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	l := LUN{Number: 1, Volume: "file:///a?key=hush", Tgt: &TgtStore{Options: "hush"}}
	n := LUN{Number: 1, Volume: "file:///a?key=other", Tgt: &TgtStore{}, WriteCache: &yes}
	if got := Changes(l, n); got != "volume: other options, write-cache: none -> true, tgt changed" {
		t.Errorf("%q", got)
	}
	if got := Changes(Account{Secret: "hush"}, Account{Secret: "other"}); strings.Contains(got, "hush") || got == "" {
		t.Errorf("%q", got)
	}
}
