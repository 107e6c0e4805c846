// Package config reads and writes files that say what a daemon is to serve: lunar's own YAML, and tgt's targets.conf. Each becomes a
// spec.Document, checked, with errors that name file, line and key.
//
//	f, err := config.Load("/etc/lunar/lunar.yaml", config.Options{})
//	have := service.Document()
//	want := f.Over(&have)           // the file is the truth about what it names
//	steps, err := service.Apply(ctx, want, admin.ApplyOptions{})
//
// # YAML
//
// The keys are the yaml tags of package spec; what is a list of mappings in a Document can be written short (short.go). It is read
// by a decoder of its own over the library's syntax tree, so that unknown keys, wrong values and what is there twice are all told of at once, each
// with its place, and so that every bound is kept: the size of a file, nesting, keys of a mapping, what aliases stand for.
//
// # targets.conf
//
// conflines.go and conftree.go are the grammar (that of Perl's Config::General, as tgt-admin asks for it), targetsconf.go and targetslun.go
// what tgt-admin makes of it. Where lunar does otherwise, for a reason, the place says so: names do not open a target to all, and a store that is
// missing keeps its LUN number.
//
// It knows nothing of a running daemon. It promises nothing to programs outside this module.
package config
