package spec

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Changes tells in one line what differs between two values of one type of this package, field by field in the declarative file's words; empty:
// nothing. Of secrets, of a volume's options and of what tgt was told of one it says only that they differ. What is there and empty is
// the same as what is not there.
func Changes(a, b any) string {
	return strings.Join(changes("", reflect.ValueOf(a), reflect.ValueOf(b)), ", ")
}

// hidden are fields whose values may have a secret in them.
var hidden = map[string]bool{"secret": true, "tgt": true, "callback": true}

func changes(name string, a, b reflect.Value) (out []string) {
	switch {
	case reflect.DeepEqual(a.Interface(), b.Interface()):
		return nil
	case hidden[name[strings.LastIndexByte(name, '.')+1:]]:
		return []string{name + " changed"}
	}
	switch a.Kind() {
	case reflect.Struct:
		for i := range a.NumField() {
			f := wordOf(a.Type().Field(i))
			if name != "" {
				f = name + "." + f
			}
			out = append(out, changes(f, a.Field(i), b.Field(i))...)
		}
	case reflect.Map:
		keys := map[string]bool{}
		for _, m := range []reflect.Value{a, b} {
			for _, k := range m.MapKeys() {
				keys[k.String()] = true
			}
		}
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			key := reflect.ValueOf(k)
			was, is := told(a.MapIndex(key)), told(b.MapIndex(key))
			if was != is {
				out = append(out, fmt.Sprintf("%s.%s: %s -> %s", name, k, was, is))
			}
		}
	case reflect.Slice:
		if a.Len() == 0 && b.Len() == 0 {
			return nil
		}
		if was, is := listed(a), listed(b); was != "" && is != "" {
			return []string{fmt.Sprintf("%s: %s -> %s", name, was, is)}
		}
		if k := a.Type().Elem().Kind(); k == reflect.Struct {
			return []string{fmt.Sprintf("%s: %d -> %d of them", name, a.Len(), b.Len())}
		}
		return []string{fmt.Sprintf("%s: %v -> %v", name, a.Interface(), b.Interface())}
	default:
		if name == "volume" {
			was, is := bare(a.String()), bare(b.String())
			if was == is {
				return []string{"volume: other options"}
			}
			return []string{fmt.Sprintf("volume: %q -> %q", was, is)}
		}
		return []string{fmt.Sprintf("%s: %s -> %s", name, told(a), told(b))}
	}
	return out
}

// maxListed is how long a list may be, in characters, to be told whole.
const maxListed = 300

// listed tells the elements of a list that has no secrets in it: access rules and LUN maps. Empty: another list, or one that is too long.
func listed(v reflect.Value) string {
	switch v.Interface().(type) {
	case []Rule, []LUNMap:
	default:
		return ""
	}
	if v.Len() == 0 {
		return "[]"
	}
	text, err := json.Marshal(v.Interface())
	if err != nil || len(text) > maxListed {
		return ""
	}
	return string(text)
}

// bare is a volume's URI without its options.
func bare(uri string) string {
	s, _, _ := strings.Cut(uri, "?")
	return s
}

func told(v reflect.Value) string {
	switch {
	case !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil():
		return "none"
	case v.Kind() == reflect.Pointer:
		return told(v.Elem())
	case v.Kind() == reflect.String:
		return fmt.Sprintf("%q", v.String())
	}
	return fmt.Sprint(v.Interface())
}

// wordOf is a field's name in the declarative file, or in saved state where that has none.
func wordOf(f reflect.StructField) string {
	for _, tag := range []string{"yaml", "json"} {
		if w, _, _ := strings.Cut(f.Tag.Get(tag), ","); w != "" && w != "-" {
			return w
		}
	}
	return f.Name
}
