package initiator

import (
	"bytes"
	"fmt"
	"strings"
)

// A Key is one key=value pair of a login or text exchange (RFC 7143 §6.1).
type Key struct{ Name, Value string }

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
	return append(out, Key{name, value})
}

// Encode returns the list as it stands in a data segment: each pair ended by a zero byte.
func (k Keys) Encode() []byte {
	var b []byte
	for _, x := range k {
		b = append(b, x.Name...)
		b = append(b, '=')
		b = append(b, x.Value...)
		b = append(b, 0)
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

// ParseKeys reads a whole key list. A pair without '=' or the last without its zero byte is an error.
func ParseKeys(b []byte) (Keys, error) {
	var k Keys
	for len(b) > 0 {
		i := bytes.IndexByte(b, 0)
		if i < 0 {
			return k, fmt.Errorf("key list: %q has no zero byte at its end", b)
		}
		pair := b[:i]
		b = b[i+1:]
		if len(pair) == 0 { // a few targets pad inside the data segment
			continue
		}
		eq := bytes.IndexByte(pair, '=')
		if eq <= 0 {
			return k, fmt.Errorf("key list: %q is no key=value pair", pair)
		}
		k = append(k, Key{string(pair[:eq]), string(pair[eq+1:])})
	}
	return k, nil
}
