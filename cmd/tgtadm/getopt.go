package main

import (
	"fmt"
	"strings"
)

// An option is one that the command line may name, by letter or by word.
type option struct {
	word  string
	short byte
	// longArg and shortArg: an argument is wanted after the word, after the letter. With tgtadm these differ: --force stands
	// alone and -F takes an argument.
	longArg, shortArg bool
}

// A found option of a command line.
type found struct {
	short byte
	arg   string
}

// A getopt reads a command line by the rules of glibc's getopt_long: words abbreviated as long as one option alone begins so,
// --word=argument or --word argument, letters in clusters, options and other words in any order (unless POSIXLY_CORRECT says
// otherwise), and -- that ends the options. No kept library has these rules and texts whole, and scripts rely on both.
type getopt struct {
	program string // begins every message
	options []option
	inOrder bool // POSIXLY_CORRECT: the first word that is no option ends them

	args    []string // still to read
	cluster string   // the rest of letters that stand together
	words   []string // what is no option, in order
}

// next is the next option; ok is false when there is none left. An error has glibc's text, program name included.
func (g *getopt) next() (f found, ok bool, err error) {
	for g.cluster == "" {
		if len(g.args) == 0 {
			return found{}, false, nil
		}
		arg := g.args[0]
		switch {
		case arg == "--":
			g.words = append(g.words, g.args[1:]...)
			g.args = nil
			return found{}, false, nil
		case len(arg) < 2 || arg[0] != '-':
			if g.inOrder {
				g.words = append(g.words, g.args...)
				g.args = nil
				return found{}, false, nil
			}
			g.words = append(g.words, arg)
			g.args = g.args[1:]
		case arg[1] == '-':
			g.args = g.args[1:]
			f, err = g.long(arg[2:])
			return f, err == nil, err
		default:
			g.args = g.args[1:]
			g.cluster = arg[1:]
		}
	}
	f, err = g.letter()
	return f, err == nil, err
}

// long is the option that text, what follows --, stands for.
func (g *getopt) long(text string) (found, error) {
	word, arg, given := strings.Cut(text, "=")
	o, err := g.lookup(word, text)
	if err != nil {
		return found{}, err
	}
	switch {
	case given && !o.longArg:
		return found{}, fmt.Errorf("%s: option '--%s' doesn't allow an argument", g.program, o.word)
	case !given && o.longArg:
		if len(g.args) == 0 {
			return found{}, fmt.Errorf("%s: option '--%s' requires an argument", g.program, o.word)
		}
		arg, g.args = g.args[0], g.args[1:]
	}
	return found{o.short, arg}, nil
}

// lookup finds the one option that is called word or begins so.
func (g *getopt) lookup(word, text string) (*option, error) {
	var like []*option
	for i := range g.options {
		o := &g.options[i]
		if o.word == word {
			return o, nil
		}
		if strings.HasPrefix(o.word, word) {
			like = append(like, o)
		}
	}
	switch len(like) {
	case 0:
		return nil, fmt.Errorf("%s: unrecognized option '--%s'", g.program, text)
	case 1:
		return like[0], nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: option '--%s' is ambiguous; possibilities:", g.program, text)
	for _, o := range like {
		fmt.Fprintf(&b, " '--%s'", o.word)
	}
	return nil, fmt.Errorf("%s", b.String())
}

// letter is the next option of a cluster.
func (g *getopt) letter() (found, error) {
	c := g.cluster[0]
	g.cluster = g.cluster[1:]
	for i := range g.options {
		o := &g.options[i]
		if o.short != c {
			continue
		}
		if !o.shortArg {
			return found{c, ""}, nil
		}
		arg := g.cluster
		g.cluster = ""
		if arg == "" {
			if len(g.args) == 0 {
				return found{}, fmt.Errorf("%s: option requires an argument -- '%s'", g.program, string([]byte{c}))
			}
			arg, g.args = g.args[0], g.args[1:]
		}
		return found{c, arg}, nil
	}
	return found{}, fmt.Errorf("%s: invalid option -- '%s'", g.program, string([]byte{c}))
}
