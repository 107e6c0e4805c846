package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// maxNodes bounds how many values a file comes to once its aliases are followed: lists of aliases of lists can be made that
// stand for more than any memory.
const maxNodes = 1 << 20

// A decoder puts the values of a YAML document into Go values whose fields have yaml tags. A key that no field has is a mistake;
// it goes on after one, to find the others.
type decoder struct {
	file    string
	errs    Errors
	nodes   int
	full    bool                // maxNodes or maxErrors is reached, and said
	anchors map[string]ast.Node // those above what is read
	places  map[string]place    // where the value of a key path stands, for messages about the finished document
	paths   []string            // the keys of places, in the order of the file
	aliased int                 // aliases that lead to what is read: its places are those of the alias
	fields  map[reflect.Type][]field
}

// A place is where something stands in a file.
type place struct {
	line, column int
	index        int // in decoder.paths
}

func newDecoder(file string) *decoder {
	return &decoder{file: file, anchors: map[string]ast.Node{}, places: map[string]place{}, fields: map[reflect.Type][]field{}}
}

func (d *decoder) errorf(n ast.Node, key, format string, args ...any) {
	if d.full {
		return
	}
	d.errs = append(d.errs, errorAt(d.file, n, key, format, args...))
	d.full = len(d.errs) >= maxErrors
}

// follow returns what n stands for: it looks through anchors and aliases. nil: the mistake has been told.
func (d *decoder) follow(n ast.Node, key string) ast.Node {
	for range maxDepth {
		switch x := n.(type) {
		case *ast.AnchorNode:
			d.anchors[x.Name.GetToken().Value] = x.Value
			n = x.Value
		case *ast.AliasNode:
			name := x.Value.GetToken().Value
			to, ok := d.anchors[name]
			if !ok {
				d.errorf(n, key, `no anchor &%s above; text that begins with * must be quoted: "*%s"`, name, name)
				return nil
			}
			n = to
		case *ast.TagNode:
			d.errorf(n, key, "the tag %s: tags are not used here", x.Start.Value)
			return nil
		case nil:
			return nil
		default:
			return n
		}
	}
	d.errorf(n, key, "an alias that stands for itself")
	return nil
}

// value decodes n into v. An absent value (null, or nothing after the colon) is none for mappings and lists, and a mistake elsewhere.
func (d *decoder) value(n ast.Node, v reflect.Value, key string) {
	if d.nodes++; d.nodes > maxNodes && !d.full {
		d.errorf(n, key, "more than %d values, counting what aliases stand for", maxNodes)
		d.full = true
	}
	if d.full {
		return
	}
	if p := positionOf(n); p != nil && d.aliased == 0 {
		if _, ok := d.places[key]; !ok {
			d.places[key] = place{p.Line, p.Column, len(d.paths)}
			d.paths = append(d.paths, key)
		}
	}
	if _, ok := n.(*ast.AliasNode); ok {
		d.aliased++
		defer func() { d.aliased-- }()
	}
	if n = d.follow(n, key); n == nil {
		return
	}
	if isScalar(n) && v.CanAddr() && d.short(n, v.Addr().Interface(), key) {
		return
	}
	_, null := n.(*ast.NullNode)
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.value(n, p.Elem(), key)
		v.Set(p)
	case reflect.Struct:
		if !null {
			d.structure(n, v, key)
		}
	case reflect.Map:
		if !null {
			d.texts(n, v, key)
		}
	case reflect.Slice:
		if !null {
			d.list(n, v, key)
		}
	default:
		d.scalar(n, v, key)
	}
}

// pairs returns the keys and values of a mapping; false: the mistake has been told.
func (d *decoder) pairs(n ast.Node, key string) ([]*ast.MappingValueNode, bool) {
	switch x := n.(type) {
	case *ast.MappingNode:
		return x.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{x}, true
	}
	d.errorf(n, key, "want keys and values, not %s", kindOf(n))
	return nil, false
}

// name returns a key's text; false: the mistake has been told.
func (d *decoder) name(kv *ast.MappingValueNode, key string) (string, bool) {
	switch k := kv.Key.(type) {
	case *ast.MergeKeyNode:
		d.errorf(kv.Key, key, "merge keys (<<) are not used here; an alias can stand for a whole value")
		return "", false
	case *ast.StringNode:
		return k.Value, true
	case *ast.MappingKeyNode:
		d.errorf(kv.Key, key, "a key must be plain text")
		return "", false
	}
	return kv.Key.GetToken().Value, true
}

func (d *decoder) structure(n ast.Node, v reflect.Value, key string) {
	pairs, ok := d.pairs(n, key)
	if !ok {
		return
	}
	known, ok := d.fields[v.Type()]
	if !ok {
		known = fieldsOf(v.Type())
		d.fields[v.Type()] = known
	}
	seen := map[string]bool{}
	for _, kv := range pairs {
		name, ok := d.name(kv, key)
		if !ok {
			continue
		}
		i := slices.IndexFunc(known, func(f field) bool { return f.key == name })
		switch path := join(key, name); {
		case i < 0:
			d.errorf(kv.Key, path, "unknown key%s", suggest(name, known))
		case seen[name]:
			d.errorf(kv.Key, path, "given twice")
		default:
			seen[name] = true
			d.value(kv.Value, v.FieldByIndex(known[i].index), path)
		}
	}
	if v.Type() == reflect.TypeFor[spec.LUN]() && !seen["lun"] {
		d.errorf(n, key, "it has no number; add lun: 1 (up to 16383)")
	}
}

func (d *decoder) texts(n ast.Node, v reflect.Value, key string) {
	pairs, ok := d.pairs(n, key)
	if !ok {
		return
	}
	m := reflect.MakeMap(v.Type())
	for _, kv := range pairs {
		name, ok := d.name(kv, key)
		if !ok {
			continue
		}
		k := reflect.ValueOf(name)
		if m.MapIndex(k).IsValid() {
			d.errorf(kv.Key, join(key, name), "given twice")
			continue
		}
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(kv.Value, e, join(key, name))
		m.SetMapIndex(k, e)
	}
	v.Set(m)
}

// list decodes a sequence; a scalar is a list of one where the elements can be written as scalars.
func (d *decoder) list(n ast.Node, v reflect.Value, key string) {
	elem := v.Type().Elem()
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		if _, scalar := n.(ast.ScalarNode); scalar && (elem.Kind() != reflect.Struct || hasShort(elem)) {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			d.value(n, v.Index(0), key+"[0]")
			return
		}
		d.errorf(n, key, "want a list, not %s", kindOf(n))
		return
	}
	if len(s.Values) == 0 {
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, min(len(s.Values), 1024))
	for i, x := range s.Values {
		if d.full {
			return
		}
		e := reflect.New(elem).Elem()
		path := fmt.Sprintf("%s[%d]", key, i)
		if x == nil {
			d.errorf(n, path, "an entry without a value")
			continue
		}
		if _, null := x.(*ast.NullNode); null {
			d.errorf(x, path, "an entry without a value")
			continue
		}
		d.value(x, e, path)
		out = reflect.Append(out, e)
	}
	v.Set(out)
}

// text returns a scalar as it was written: 0x10 and no are text where text is wanted.
func (d *decoder) text(n ast.Node, key string) (string, bool) {
	switch x := n.(type) {
	case *ast.StringNode:
		return x.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	case *ast.NullNode:
		d.errorf(n, key, "no value; leave the key out for the default")
	case *ast.LiteralNode:
		d.errorf(n, key, "write it on one line, not as a block (| or >)")
	default:
		d.errorf(n, key, "want one value, not %s", kindOf(n))
	}
	return "", false
}

func (d *decoder) scalar(n ast.Node, v reflect.Value, key string) {
	s, ok := d.text(n, key)
	if !ok {
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		switch strings.ToLower(s) {
		case "true", "yes", "on":
			v.SetBool(true)
		case "false", "no", "off":
			v.SetBool(false)
		default:
			d.errorf(n, key, "%q: want true or false", s)
		}
	case reflect.Int:
		x, err := parseInt(s, unitOf(key))
		if err != nil {
			d.errorf(n, key, "%v", err)
			return
		}
		v.SetInt(int64(x))
	case reflect.Uint16:
		x, err := parseInt(s, 0)
		if err != nil || x < 0 || x > 65535 {
			d.errorf(n, key, "%q: want a number from 0 to 65535", s)
			return
		}
		v.SetUint(uint64(x))
	default:
		d.errorf(n, key, "%s cannot be set from a file", v.Type())
	}
}

// below lists key and the key paths below it. They are next to each other in paths: each is put there before what it contains.
func (d *decoder) below(key string) []string {
	p, ok := d.places[key]
	if !ok {
		return nil
	}
	first, last := p.index, p.index+1
	for last < len(d.paths) && strings.HasPrefix(d.paths[last], key) && strings.ContainsRune(".[", rune(d.paths[last][len(key)])) {
		last++
	}
	return d.paths[first:last]
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func kindOf(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys and values"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "nothing"
	case ast.ScalarNode:
		return "one value" // not its text: it may be a secret in the wrong place
	}
	return "this"
}

// isScalar reports whether n is one value that text reads.
func isScalar(n ast.Node) bool {
	switch n.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return true
	}
	return false
}
