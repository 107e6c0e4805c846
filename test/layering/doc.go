// Package layering holds the module to its own rules: which package may import which, what no package does
// (init functions, os.Exit, logging in the core, mutable globals), how long a file may be, and that each
// package says in its doc.go what it is.
//
// It knows the source, by go list and by syntax, and runs none of it. The table in rules.go is
// ARCHITECTURE.md's in code: a package that the table does not know is a failure, so a new one is placed
// on purpose.
//
// It promises nothing to programs outside this module.
package layering
