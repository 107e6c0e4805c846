package grpcd

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/lunar-iscsi/lunar/admin"
)

// nothingNamed refuses an update without fields.
var nothingNamed = &admin.Error{Code: admin.Invalid, Text: "update_mask: it names no field", Hint: "name the fields of \"to\" that are to be set"}

// maskOf looks up the fields that a mask names.
func maskOf[T any](m *fieldmaskpb.FieldMask, fields map[string]func(*T, T), _ T) ([]func(*T, T), error) {
	var set []func(*T, T)
	for _, p := range m.GetPaths() {
		f, ok := fields[p]
		if !ok {
			return nil, invalid("fields that can be set: "+strings.Join(slices.Sorted(maps.Keys(fields)), ", "), "update_mask: %q cannot be set", p)
		}
		set = append(set, f)
	}
	return set, nil
}

// sameAs is for calls that allow that what they make is there: every field that is given has to be as it is there.
func sameAs(what string, given, have proto.Message) error {
	if f := differs(given.ProtoReflect(), have.ProtoReflect()); f != "" {
		code := admin.TargetExists
		if what == "LUN" {
			code = admin.LUNExists
		}
		return &admin.Error{Code: code, Text: fmt.Sprintf("the %s is there already, with another %s", what, f), Hint: "change it with an update, or remove it first"}
	}
	return nil
}

// differs names the first field that is set in given and is not so in have, or nothing.
func differs(given, have protoreflect.Message) (field string) {
	given.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		h := have.Get(f)
		var same bool
		switch {
		case f.IsList() && f.Message() != nil:
			same = v.List().Len() == h.List().Len()
			for i := 0; same && i < v.List().Len(); i++ {
				if sub := differs(v.List().Get(i).Message(), h.List().Get(i).Message()); sub != "" {
					field = fmt.Sprintf("%s[%d].%s", f.Name(), i, sub)
					return false
				}
			}
		case f.Message() != nil && !f.IsMap():
			if sub := differs(v.Message(), h.Message()); sub != "" {
				field = string(f.Name()) + "." + sub
				return false
			}
			same = true
		default:
			same = v.Equal(h)
		}
		if !same {
			field = string(f.Name())
		}
		return same
	})
	return field
}
