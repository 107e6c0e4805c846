package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// A confBlock is what stands between <kind name> and </kind>, and the whole of a file.
type confBlock struct {
	values map[string][]confValue
	blocks map[string]*confBlocks
	at     confLine // where it began first
}

// confBlocks are the blocks of one kind by their names; those of one name are one block.
type confBlocks struct {
	named map[string]*confBlock
	at    confLine
}

// A confValue is one value of a key.
type confValue struct {
	text string
	none bool // the key stood alone
	at   confLine
}

var (
	confStart = regexp.MustCompile(`^<([^/]+?.*?)>$`)
	confEnd   = regexp.MustCompile(`^</(.+?)>$`)
	confName  = regexp.MustCompile(`^(?:"([^"]+)"|(\S+))(?:\s+(?:"([^"]+)"|(.*)))?$`)
	confSplit = regexp.MustCompile(`\s*=\s*|\s+`)
	confSlash = regexp.MustCompile(`\\([$\\"#])`)
)

func newBlock(at confLine) *confBlock {
	return &confBlock{values: map[string][]confValue{}, blocks: map[string]*confBlocks{}, at: at}
}

// parseConf makes blocks of lines.
func parseConf(lines []confLine, warn func(file string, line int, format string, args ...any)) (*confBlock, error) {
	type open struct {
		*confBlock
		kind string
		at   confLine
	}
	root := newBlock(confLine{})
	stack := []open{{confBlock: root}}
	for _, l := range lines {
		fail := func(format string, args ...any) error {
			return &Error{File: l.file, Line: l.line, Text: fmt.Sprintf(format, args...)}
		}
		top := &stack[len(stack)-1]
		if m := confStart.FindStringSubmatch(l.text); m != nil && !l.here {
			if len(stack) > maxConfBlocks {
				return nil, fail("more than %d blocks in each other", maxConfBlocks)
			}
			b, kind, err := top.enter(m[1], l)
			if err != nil {
				return nil, fail("%v", err)
			}
			stack = append(stack, open{b, kind, l})
			continue
		}
		if m := confEnd.FindStringSubmatch(l.text); m != nil && !l.here {
			if len(stack) == 1 {
				return nil, fail("%s ends a block that has not begun", l.text)
			}
			if m[1] != top.kind {
				warn(l.file, l.line, "%s ends <%s>, which began at line %d", l.text, top.kind, top.at.line)
			}
			stack = stack[:len(stack)-1]
			continue
		}
		key, v := split(l)
		if key == "" {
			return nil, fail("a value without a key")
		}
		if other := top.blocks[key]; other != nil {
			return nil, fail("%s is a block (<%s …>) at %s:%d, and a line here; it can be one of them in a target", key, key, other.at.file, other.at.line)
		}
		top.values[key] = append(top.values[key], v)
	}
	if n := len(stack); n > 1 {
		at := stack[n-1].at
		return nil, &Error{File: at.file, Line: at.line, Text: fmt.Sprintf("the block %s is not ended", at.text)}
	}
	return root, nil
}

// enter returns the block that begins with <text>.
func (b *confBlock) enter(text string, at confLine) (*confBlock, string, error) {
	m := confName.FindStringSubmatch(text)
	if m == nil || strings.HasPrefix(text, `"`) && strings.Count(text, `"`) == 2 && strings.HasSuffix(text, `"`) {
		return nil, "", fmt.Errorf("<%s>: want <target NAME> or <backing-store PATH>", text)
	}
	kind, name := m[1]+m[2], m[3]+m[4]
	if name == "" {
		return nil, "", fmt.Errorf("<%s> has no name", kind)
	}
	if v := b.values[kind]; len(v) > 0 {
		return nil, "", fmt.Errorf("%s is a line at %s:%d, and a block here; it can be one of them in a target", kind, v[0].at.file, v[0].at.line)
	}
	g := b.blocks[kind]
	if g == nil {
		g = &confBlocks{named: map[string]*confBlock{}, at: at}
		b.blocks[kind] = g
	}
	if g.named[name] == nil {
		g.named[name] = newBlock(at)
	}
	return g.named[name], kind, nil
}

// split takes a line apart at its first white space or =.
func split(l confLine) (key string, v confValue) {
	v.at = l
	if l.here {
		v.text = l.doc
		v.none = l.doc == ""
		return l.text, v
	}
	at := confSplit.FindStringIndex(l.text)
	if at == nil {
		v.none = true
		return l.text, v
	}
	s := l.text[at[1]:]
	if strings.HasPrefix(s, `"`) && strings.HasSuffix(s, `"`) {
		s = strings.TrimSuffix(strings.TrimPrefix(s, `"`), `"`)
	}
	v.text = confSlash.ReplaceAllString(s, "$1")
	v.none = v.text == ""
	return l.text[:at[0]], v
}

// one returns the only value of a key; has tells whether it is there.
func (b *confBlock) one(key string) (v confValue, has bool, err error) {
	list := b.values[key]
	if len(list) == 0 {
		return v, false, nil
	}
	if len(list) > 1 {
		return v, true, list[1].errorf("%s is given twice, first at %s:%d", key, list[0].at.file, list[0].at.line)
	}
	return list[0], true, list[0].check(key)
}

// all returns the values of a key.
func (b *confBlock) all(key string) ([]confValue, error) {
	for _, v := range b.values[key] {
		if err := v.check(key); err != nil {
			return nil, err
		}
	}
	return b.values[key], nil
}

func (v confValue) check(key string) error {
	switch {
	case v.none:
		return v.errorf("%s has no value", key)
	case strings.Contains(v.text, "\n"):
		return v.errorf("%s has a value of several lines", key)
	}
	return nil
}

func (v confValue) errorf(format string, args ...any) error {
	return &Error{File: v.at.file, Line: v.at.line, Text: fmt.Sprintf(format, args...)}
}

// asErrors gathers what one after another has failed.
func asErrors(list Errors, err error) Errors {
	var e *Error
	switch {
	case err == nil || len(list) >= maxErrors:
	case errors.As(err, &e):
		list = append(list, e)
	default:
		list = append(list, &Error{Text: err.Error()})
	}
	return list
}
