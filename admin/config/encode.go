package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// Marshal writes a document as a file that Load reads as the same document. Without secrets, each is written as a word that Load refuses, so
// that nobody applies a listing and loses them. Text that is not UTF-8 cannot be written.
func Marshal(d *spec.Document, secrets bool) ([]byte, error) {
	f := File{Document: *d, Has: System | Portals | Accounts | Discovery | Targets}
	return f.Marshal(secrets)
}

// Marshal writes a file anew: the sections that it has, and whether it keeps what it does not name.
func (f *File) Marshal(secrets bool) ([]byte, error) {
	d := &f.Document
	w := file{Keep: f.Keep&Targets != 0, System: d.System, Portals: d.Portals, Discovery: d.Discovery, Targets: d.Targets}
	for _, a := range d.Accounts {
		if !secrets {
			a.Secret = hiddenSecret
		}
		w.Accounts = append(w.Accounts, account{Name: a.Name, Secret: a.Secret})
	}
	var e encoder
	if w.Keep {
		e.line(0, "keep: true")
	}
	v := reflect.ValueOf(w)
	for _, fl := range fieldsOf(v.Type()) {
		x := v.FieldByIndex(fl.index)
		switch {
		case f.Has&sections[fl.key] == 0:
		case x.Kind() == reflect.Slice && x.Len() == 0:
			// A list that is empty is said: who applies the file means that nothing is to be there.
			e.line(0, fl.key+": []")
		case isZero(x):
			e.line(0, fl.key+": {}")
		default:
			e.field(0, fl.key, x)
		}
	}
	return e.b, e.err
}

// An encoder writes YAML in block style, with lists of plain values on one line.
type encoder struct {
	b   []byte
	err error
}

func (e *encoder) line(indent int, s string) {
	e.b = append(e.b, strings.Repeat(" ", indent)...)
	e.b = append(e.b, s...)
	e.b = append(e.b, '\n')
}

// field writes a key with its value, unless the value is a default.
func (e *encoder) field(indent int, key string, v reflect.Value) {
	// The number of a LUN is never a default.
	if isZero(v) && key != "lun" && key != "as" {
		return
	}
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Struct:
		n := len(e.b)
		e.line(indent, key+":")
		was := len(e.b)
		if e.structure(indent+2, v); len(e.b) == was {
			e.b = e.b[:n]
			e.line(indent, key+": {}")
		}
	case reflect.Map:
		e.line(indent, key+":")
		m := v.Interface().(map[string]string)
		for _, k := range slices.Sorted(maps.Keys(m)) {
			e.line(indent+2, e.quote(k)+": "+e.quote(m[k]))
		}
	case reflect.Slice:
		e.list(indent, key, v)
	default:
		e.line(indent, key+": "+e.scalar(v))
	}
}

func (e *encoder) structure(indent int, v reflect.Value) {
	for _, f := range fieldsOf(v.Type()) {
		e.field(indent, f.key, v.FieldByIndex(f.index))
	}
}

func (e *encoder) list(indent int, key string, v reflect.Value) {
	var short []string
	for i := range v.Len() {
		s, ok := e.short(v.Index(i))
		if !ok {
			break
		}
		short = append(short, s)
	}
	if len(short) == v.Len() {
		e.line(indent, key+": ["+strings.Join(short, ", ")+"]")
		return
	}
	e.line(indent, key+":")
	for i := range v.Len() {
		n := len(e.b)
		if s, ok := e.short(v.Index(i)); ok {
			e.line(indent+2, "- "+s)
			continue
		}
		e.structure(indent+4, v.Index(i))
		if len(e.b) == n {
			e.line(indent+2, "- {}")
			continue
		}
		copy(e.b[n:], strings.Repeat(" ", indent+2)+"- ")
	}
}

// short is an element of a list as one value; false where it has none.
func (e *encoder) short(v reflect.Value) (string, bool) {
	switch x := v.Interface().(type) {
	case spec.Rule:
		s, ok := shortRule(x)
		return e.quote(s), ok
	case spec.Portal:
		return e.quote(x.Address), x == spec.Portal{Address: x.Address} && x.Address != ""
	case spec.MappedLUN:
		return strconv.Itoa(int(x.LUN)), x.As == x.LUN
	}
	if v.Kind() == reflect.Struct {
		return "", false
	}
	return e.scalar(v), true
}

func (e *encoder) scalar(v reflect.Value) string {
	switch v.Kind() {
	case reflect.String:
		return e.quote(v.String())
	case reflect.Bool:
		return strconv.FormatBool(v.Bool())
	case reflect.Int:
		return strconv.FormatInt(v.Int(), 10)
	case reflect.Uint16:
		return strconv.FormatUint(v.Uint(), 10)
	}
	e.err = fmt.Errorf("a %s cannot be written", v.Type())
	return ""
}

// quote writes text plain where every reader of YAML sees the same text in it, and in double quotes elsewhere.
func (e *encoder) quote(s string) string {
	if !utf8.ValidString(s) {
		if e.err == nil {
			e.err = fmt.Errorf("%q is not UTF-8 and cannot stand in a YAML file", s)
		}
		return ""
	}
	if plain(s) {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r >= 0x7f && r < 0xa0:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r == 0x2028 || r == 0x2029 || r == 0xfeff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// plain reports whether text needs no quotes: it begins with a letter or "/" and has nothing in it that means something to YAML, and is no
// word that it gives another type.
func plain(s string) bool {
	if s == "" || s[len(s)-1] == ':' {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '/':
		case i > 0 && (c >= '0' && c <= '9' || strings.IndexByte(":.-_+=?&*", c) >= 0):
		default:
			return false
		}
	}
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "y", "n", "null":
		// Yes and No are the values of iSCSI's keys, and are text to the readers that lunar has.
		return s == "Yes" || s == "No"
	}
	return true
}

// isZero reports whether a value need not be written: it is a default, or a list or mapping with nothing in it.
func isZero(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	case reflect.Struct:
		for _, f := range fieldsOf(v.Type()) {
			if !isZero(v.FieldByIndex(f.index)) {
				return false
			}
		}
		return true
	}
	return v.IsZero()
}
