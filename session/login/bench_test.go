package login

import (
	"testing"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// BenchmarkLogin is one login of the operational stage alone, as open-iscsi does it: what a storm of
// reconnecting initiators costs beside its system calls.
func BenchmarkLogin(b *testing.B) {
	cfg := Defaults()
	policy := &book{targets: map[string]bookEntry{"iqn.2001-04.com.example:a": {}}}
	data := []byte("InitiatorName=iqn.2001-04.com.example:host\x00TargetName=iqn.2001-04.com.example:a\x00")
	data = NewOffer(cfg.Params, Normal, true).AppendKeys(data)
	h := &pdu.Header{0: 0x40 | byte(pdu.OpLoginReq)}
	(*pdu.LoginReq)(h).SetFlags(true, false, pdu.OperationalStage, pdu.FullFeaturePhase)
	h.SetDataLen(len(data))
	b.ReportAllocs()
	for b.Loop() {
		if r := NewNegotiator(&cfg, policy, nil, 1).Received(h, data); !r.Final {
			b.Fatal(r.Err)
		}
	}
}
