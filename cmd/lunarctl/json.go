package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// plain makes of a message what encoding/json writes as scripts like it: every field is there under its name in the .proto files, in
// their order; numbers are numbers (protobuf's own JSON makes text of those with 64 bits); what is absent is null, an empty list []; an enum
// value is its name without the enum's, in small letters; a time is RFC 3339, a duration seconds.
func plain(m protoreflect.Message) any {
	if !m.IsValid() {
		return nil
	}
	switch x := m.Interface().(type) {
	case *timestamppb.Timestamp:
		return x.AsTime().UTC().Format(time.RFC3339Nano)
	case *durationpb.Duration:
		return x.AsDuration().Seconds()
	}
	fields := m.Descriptor().Fields()
	o := make(object, 0, fields.Len())
	for i := range fields.Len() {
		f := fields.Get(i)
		o = append(o, member{string(f.Name()), plainField(m, f)})
	}
	return o
}

func plainField(m protoreflect.Message, f protoreflect.FieldDescriptor) any {
	v := m.Get(f)
	switch {
	case f.IsMap():
		out := map[string]any{}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			out[k.String()] = plainValue(f.MapValue(), v)
			return true
		})
		return out
	case f.IsList():
		out := []any{}
		for i := range v.List().Len() {
			out = append(out, plainValue(f, v.List().Get(i)))
		}
		return out
	case f.HasPresence() && !m.Has(f):
		return nil
	}
	return plainValue(f, v)
}

func plainValue(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return plain(v.Message())
	case protoreflect.EnumKind:
		return enumName(f.Enum(), v.Enum())
	}
	return v.Interface()
}

// enumName is EVENT_KIND_LUN_ADDED as lun_added.
func enumName(e protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	v := e.Values().ByNumber(n)
	if v == nil {
		return fmt.Sprintf("unknown_%d", n)
	}
	prefix := strings.TrimSuffix(string(e.Values().ByNumber(0).Name()), "UNSPECIFIED")
	return strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix))
}

// kindOf is enumName for what has been generated.
func kindOf(e protoreflect.Enum) string { return enumName(e.Descriptor(), e.Number()) }

// An object is a JSON object whose members have an order.
type object []member

type member struct {
	name  string
	value any
}

// MarshalJSON writes it.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // what stands around it does not either
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := e.Encode(m.name); err != nil {
			return nil, err
		}
		b.WriteByte(':')
		if err := e.Encode(m.value); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// writeJSON writes a message, a list of messages, or what encoding/json knows. One line, for streams, or indented.
func writeJSON(w io.Writer, v any, line bool) error {
	if m, ok := v.(proto.Message); ok {
		v = plain(m.ProtoReflect())
	} else if l := reflect.ValueOf(v); l.Kind() == reflect.Slice && l.Type() != reflect.TypeFor[object]() {
		out := []any{}
		for i := range l.Len() {
			x := l.Index(i).Interface()
			if m, ok := x.(proto.Message); ok {
				x = plain(m.ProtoReflect())
			}
			out = append(out, x)
		}
		v = out
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if !line {
		e.SetIndent("", "  ")
	}
	return e.Encode(v)
}
