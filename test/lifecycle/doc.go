// Package lifecycle holds lunard to its command line: what it refuses and how it says so, how it drains, and
// what is on the disk after it was killed.
//
// It knows lunard as an administrator does, by flags, exit status, standard error and files.
//
// It promises nothing to programs outside this module.
package lifecycle
