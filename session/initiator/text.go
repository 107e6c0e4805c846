package initiator

import (
	"fmt"
	"strings"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A Key is one key=value pair of a login or text exchange (RFC 7143 §6.1).
type Key = pdu.Key

// Keys is a key list in the order of the wire; a name may stand there twice (TargetAddress does).
type Keys []Key

// Get returns the value of the first key of that name and whether there is one.
func (k Keys) Get(name string) (string, bool) {
	for _, x := range k {
		if x.Name == name {
			return x.Value, true
		}
	}
	return "", false
}

// With returns k with name set to value: the first key of that name is replaced, or the pair is put
// at the end. k itself is not changed.
func (k Keys) With(name, value string) Keys {
	out := append(Keys(nil), k...)
	for i := range out {
		if out[i].Name == name {
			out[i].Value = value
			return out
		}
	}
	return append(out, Key{Name: name, Value: value})
}

// Encode returns the list as it stands in a data segment: each pair ended by a zero byte.
func (k Keys) Encode() []byte {
	var b []byte
	for _, x := range k {
		b = pdu.AppendKey(b, x.Name, x.Value)
	}
	return b
}

// String returns the list on one line, for messages.
func (k Keys) String() string {
	s := make([]string, len(k))
	for i, x := range k {
		s[i] = x.Name + "=" + x.Value
	}
	return strings.Join(s, " ")
}

// ParseKeys reads a whole key list, as strictly as RFC 7143 §6.1 has it.
func ParseKeys(b []byte) (Keys, error) {
	var list Keys
	for k, err := range pdu.Keys(b) {
		if err != nil {
			return list, fmt.Errorf("key list: %w", err)
		}
		list = append(list, k)
	}
	return list, nil
}
