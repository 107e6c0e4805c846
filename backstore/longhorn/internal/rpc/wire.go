package rpc

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// A message is a request: its fields, encoded.
type message []byte

func (m message) text(n protowire.Number, s string) message {
	if s == "" {
		return m
	}
	return protowire.AppendString(protowire.AppendTag(m, n, protowire.BytesType), s)
}

func (m message) number(n protowire.Number, v int64) message {
	if v == 0 {
		return m
	}
	return protowire.AppendVarint(protowire.AppendTag(m, n, protowire.VarintType), uint64(v))
}

func (m message) pair(n protowire.Number, key, value string) message {
	return protowire.AppendBytes(protowire.AppendTag(m, n, protowire.BytesType), message(nil).text(1, key).text(2, value))
}

// A field is one of an answer: a number or bytes, by its type.
type field struct {
	n     protowire.Number
	typ   protowire.Type
	value uint64
	bytes []byte
}

func (f *field) string() string { return string(f.bytes) }

// is tells whether f is field n of the given type; one of another type is not what it was taken for, and skipped.
func (f *field) is(n protowire.Number, t protowire.Type) bool { return f.n == n && f.typ == t }

// fields calls each for the fields of b.
func fields(b []byte, each func(f *field) error) error {
	for len(b) > 0 {
		var f field
		var k int
		if f.n, f.typ, k = protowire.ConsumeTag(b); k < 0 {
			return fmt.Errorf("an answer that is no message: %w", protowire.ParseError(k))
		}
		b = b[k:]
		switch f.typ {
		case protowire.VarintType:
			f.value, k = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.bytes, k = protowire.ConsumeBytes(b)
		default:
			k = protowire.ConsumeFieldValue(f.n, f.typ, b)
		}
		if k < 0 {
			return fmt.Errorf("an answer that is no message: %w", protowire.ParseError(k))
		}
		if err := each(&f); err != nil {
			return err
		}
		b = b[k:]
	}
	return nil
}

// A codec hands messages over as they are.
type codec struct{}

func (codec) Name() string { return "proto" } // what they are, whoever wrote them

func (codec) Marshal(v any) ([]byte, error) {
	m, ok := v.(message)
	if !ok {
		return nil, fmt.Errorf("rpc: a request of type %T", v)
	}
	return m, nil
}

func (codec) Unmarshal(data []byte, v any) error {
	out, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("rpc: an answer of type %T", v)
	}
	*out = append([]byte(nil), data...)
	return nil
}
