package main

import (
	"strings"
)

// helpWidth is how long a line of --help may be.
const helpWidth = 118

// volumeHelp says how volumes are named, in the drivers' own words, which "lunarctl store list" has, too.
func volumeHelp() string {
	var b strings.Builder
	for _, d := range drivers().Drivers() {
		if d.Scheme == "faulty" {
			continue // for tests
		}
		name, what, _ := strings.Cut(d.Help, " — ")
		b.WriteString("  " + name + "\n")
		wrap(&b, what)
		if d.Absent != "" {
			wrap(&b, "not built in: "+d.Absent)
		}
	}
	return b.String()
}

// wrap writes a paragraph, indented.
func wrap(b *strings.Builder, text string) {
	const indent = "      "
	line := indent
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > helpWidth && line != indent {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = indent
		}
		line += word + " "
	}
	if line != indent {
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}
