package session

import (
	"reflect"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// TestLimitsHaveDefaults: a zero limit would be none, or one that lets nothing through.
func TestLimitsHaveDefaults(t *testing.T) {
	def := Limits{}.withDefaults()
	v := reflect.ValueOf(def)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("%s has no default", v.Type().Field(i).Name)
		}
	}
	own := Limits{Window: 1, Immediate: 2, HeldBytes: 3, TextBytes: 4, TextRequests: 5, GapTime: 6, DataTimeout: 7, NOPInterval: -1,
		NOPTimeout: 8, TMFDataWait: 9, TMFTimeout: 10, LogoutWait: 11, MaxR2T: 3}
	if got := own.withDefaults(); got != own {
		t.Errorf("limits that are set became %+v", got)
	}
}

// TestReservedTagIsSkipped goes past the end of the target transfer tags.
//
// MUST 7143 §11.8.5: each R2T has a target transfer tag of its own, never the reserved one
func TestReservedTagIsSkipped(t *testing.T) {
	x := newTranscript(t, "session outstanding=3")
	x.s.nextTTT = pdu.NoTag - 2
	x.play("cmd itt=1 w edtl=24576 cdb=2a")
	told := x.play("begun itt=1 want=24576")
	for _, want := range []string{"ttt=4294967294 ", "ttt=0 ", "ttt=1 "} {
		if !strings.Contains(told, want) {
			t.Errorf("no R2T with %sin\n%s", want, told)
		}
	}
}
