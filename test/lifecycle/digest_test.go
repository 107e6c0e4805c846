package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/test/daemon"
)

// What --header-digest and --data-digest say is what initiators get, whose order decides where nothing is said; --help has both.
func TestDigestFlags(t *testing.T) {
	for _, c := range []struct {
		flags []string
		keys  [2]string // what the initiator offers: header, data
		want  string    // what is agreed upon; empty: it is not let in
	}{
		{nil, [2]string{"None,CRC32C", "CRC32C,None"}, "None CRC32C"},
		{[]string{"--header-digest=allow", "--data-digest=none"}, [2]string{"CRC32C,None", "CRC32C,None"}, "CRC32C None"},
		{[]string{"--header-digest=require"}, [2]string{"None,CRC32C", "None"}, "CRC32C None"},
		{[]string{"--data-digest=require"}, [2]string{"None", "None,CRC32C"}, "None CRC32C"},
		{[]string{"--header-digest=require"}, [2]string{"None", "CRC32C"}, ""},
		{[]string{"--data-digest=require"}, [2]string{"CRC32C", "None"}, ""},
	} {
		d := daemon.Start(t, append([]string{daemon.Export(disk, "mem:?size=1M")}, c.flags...)...)
		o := initiator.Options{Portal: d.Addr, TargetName: daemon.Prefix + disk,
			Extra: initiator.Keys{{Name: "HeaderDigest", Value: c.keys[0]}, {Name: "DataDigest", Value: c.keys[1]}}}
		offer := initiator.DefaultOffer()
		offer.HeaderDigest, offer.DataDigest = true, true // as far as Extra leaves it
		o.Offer = &offer
		s, err := initiator.Login(context.Background(), o)
		var refused *initiator.LoginError
		switch {
		case c.want == "":
			if !errors.As(err, &refused) || refused.Status != pdu.InitiatorError {
				t.Errorf("%v with %v: %v, want login status %04Xh", c.flags, c.keys, err, uint16(pdu.InitiatorError))
			}
			continue
		case err != nil:
			t.Errorf("%v with %v: %v", c.flags, c.keys, err)
			continue
		}
		p := s.Params()
		text := initiator.FormatParams(&p)
		header, data, _ := strings.Cut(c.want, " ")
		if want := fmt.Sprintf("HeaderDigest=%s DataDigest=%s ", header, data); !strings.HasPrefix(text, want) {
			t.Errorf("%v with %v: %s, want %s", c.flags, c.keys, text, want)
		}
		if _, err := s.Ping(context.Background(), []byte("ping")); err != nil {
			t.Errorf("%v with %v: %v", c.flags, c.keys, err)
		}
		s.Close()
	}
}
