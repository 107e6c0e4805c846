package config

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A field is one key of a mapping.
type field struct {
	key   string
	index []int
	typ   reflect.Type
}

// fieldsOf lists the keys that a struct type's yaml tags name, those of embedded structs among them, in the order of the fields.
func fieldsOf(t reflect.Type) (out []field) {
	for _, f := range reflect.VisibleFields(t) {
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if key == "" || key == "-" {
			continue
		}
		out = append(out, field{key, f.Index, f.Type})
	}
	return out
}

// suggest names the known key that is nearest to what was written, or all of them.
func suggest(name string, known []field) string {
	best, dist := "", 3
	for _, f := range known {
		if n := distance(strings.ReplaceAll(strings.ToLower(name), "_", "-"), f.key); n < dist {
			best, dist = f.key, n
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %s?", best)
	}
	keys := make([]string, len(known))
	for i, f := range known {
		keys[i] = f.key
	}
	slices.Sort(keys)
	return "; known here: " + strings.Join(keys, ", ")
}

// distance is how many letters have to be put in, taken out or changed to make b of a. What is long is far from everything.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return math.MaxInt
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diag
			if a[i] != b[j] {
				change++
			}
			diag = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// A unit says how a number may be written besides its digits.
type unit uint8

const (
	bytesUnit   unit = iota + 1 // 4K
	secondsUnit                 // 90s, 1m30s
)

// unitOf returns the unit of the number at a key path.
func unitOf(key string) unit {
	switch key[strings.LastIndexByte(key, '.')+1:] {
	case "block-size", "physical-block":
		return bytesUnit
	case "nop-interval", "timeout":
		return secondsUnit
	}
	return 0
}

// parseInt reads a number: decimal or, with 0x, hexadecimal. 010 is refused: some read it as eight.
func parseInt(s string, u unit) (int, error) {
	digits := strings.TrimPrefix(s, "-")
	octal := len(digits) > 1 && digits[0] == '0' && digits[1] != 'x' && digits[1] != 'X'
	if n, err := strconv.ParseInt(s, 0, strconv.IntSize); err == nil && !octal && !strings.Contains(s, "_") {
		return int(n), nil
	}
	switch u {
	case bytesUnit:
		n, err := backstore.ParseSize(s)
		if err == nil && n <= math.MaxInt && !octal {
			return int(n), nil
		}
		return 0, fmt.Errorf("%q: want bytes, or a number with K, M or G", s)
	case secondsUnit:
		d, err := time.ParseDuration(s)
		if err == nil && d%time.Second == 0 {
			return int(d / time.Second), nil
		}
		return 0, fmt.Errorf("%q: want whole seconds, as 30 or 30s or 2m", s)
	}
	return 0, fmt.Errorf("%q: want a whole number", s)
}

// A Key is one key that a file may have.
type Key struct {
	Path string // with [] for each element of a list, as targets[].luns[].volume
	Type reflect.Type
}

// Keys lists every key that a file may have, sorted.
func Keys() []Key {
	out := keysBelow(nil, "", reflect.TypeFor[file]())
	slices.SortFunc(out, func(a, b Key) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

func keysBelow(out []Key, prefix string, t reflect.Type) []Key {
	for _, f := range fieldsOf(t) {
		path, e := join(prefix, f.key), f.typ
		for again := true; again; {
			switch e.Kind() {
			case reflect.Slice:
				path, e = path+"[]", e.Elem()
			case reflect.Pointer:
				e = e.Elem()
			default:
				again = false
			}
		}
		out = append(out, Key{path, f.typ})
		if e.Kind() == reflect.Struct {
			out = keysBelow(out, path, e)
		}
	}
	return out
}
