package admin

import (
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/target"
)

// What is refused as a rule's address is what would match nobody, and the other way round.
func TestAddressesAreReadAlike(t *testing.T) {
	for _, s := range []string{"ALL", "all", "", "192.0.2.1", "192.0.2.1/24", "192.0.2.1/0", "192.0.2.1/32", "192.0.2.1/33", "192.0.2.1/08", "192.0.2.1/+8",
		"192.0.2.1/", "192.0.2.1/8/8", "[192.0.2.1]", "2001:db8::1", "2001:db8::/32", "[2001:db8::]/32", "[2001:db8::/32]", "[2001:db8::", "2001:db8::]",
		"::/128", "::/129", "::ffff:192.0.2.1", "::ffff:192.0.2.1/96", "::ffff:192.0.2.1/95", "fe80::1%eth0", "fe80::1%eth0/64", "192.0.2.01", "x", "[]", "/", "/8"} {
		_, live := target.ParseAddress(s)
		if said := spec.CheckAddress(s); (said == nil) != (live == nil) {
			t.Errorf("%q: CheckAddress says %v, ParseAddress %v", s, said, live)
		}
	}
}
