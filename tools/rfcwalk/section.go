package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A section is the number of a section, 4.2.2.1, or of an appendix, C.1: then its first part is appendix and
// the letter's place.
type section []int

const appendix = 1000 // behind every section

func parseSection(s string) (section, error) {
	var list section
	for i, part := range strings.Split(s, ".") {
		if i == 0 && len(part) == 1 && part[0] >= 'A' && part[0] <= 'E' {
			list = append(list, appendix+int(part[0]-'A'))
			continue
		}
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil, fmt.Errorf("section %s: %w", s, err)
		}
		list = append(list, n)
	}
	return list, nil
}

// String is the number as the RFC writes it.
func (s section) String() string {
	parts := make([]string, len(s))
	for i, n := range s {
		if n >= appendix {
			parts[i] = string(rune('A' + n - appendix))
			continue
		}
		parts[i] = strconv.Itoa(n)
	}
	return strings.Join(parts, ".")
}

// within reports whether s is whole or one of its subsections.
func (s section) within(whole section) bool {
	return len(s) >= len(whole) && slices.Equal(s[:len(whole)], whole)
}
