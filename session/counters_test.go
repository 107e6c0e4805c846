package session

import (
	"reflect"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/login"
	"github.com/lunar-iscsi/lunar/session/pdu"
)

// Each counter is added, none to another.
func TestCountersAdd(t *testing.T) {
	var a, b Counters
	va, vb := reflect.ValueOf(&a).Elem(), reflect.ValueOf(&b).Elem()
	for i := range va.NumField() {
		va.Field(i).SetUint(uint64(i))
		vb.Field(i).SetUint(uint64(1000 * i))
	}
	a.Add(&b)
	for i := range va.NumField() {
		if got := va.Field(i).Uint(); got != uint64(1001*i) {
			t.Errorf("%s: %d, want %d", va.Type().Field(i).Name, got, 1001*i)
		}
	}
}

// The gap that a lost connection leaves is not the fault of the one that takes its place.
func TestGapOfLostConnection(t *testing.T) {
	s := New(sam.Nexus{}, 1, login.Normal, login.Defaults().Params, 1, Limits{NOPInterval: -1}, &Pool{})
	c := s.AddConn(0, 1, 0)
	var h pdu.Header
	(*pdu.NOPOut)(&h).Init(0, 1, pdu.NoTag, false, 0)
	h.SetCmdSN(3)
	if acts := s.Received(c, 0, &h, nil, nil, nil); len(acts) != 0 || s.Counters.Held != 1 {
		t.Fatal("it was not held")
	}
	s.ConnLost(c, nil)
	s.AddConn(0, 1, 0)
	if acts := s.Tick(2*DefaultGapTime, nil); len(acts) != 0 {
		t.Fatalf("dropped: %s", acts[0].Name)
	}
}
