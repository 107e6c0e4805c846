// Package tgtvolume says what logical units described in tgt's words are in lunar's: which volume a backing store is, and what a
// LUN's parameters change. tgt's management socket and the reader of targets.conf share it, so that both make the same disk of the same words.
//
// It knows the words of tgt 1.0.85 and nothing of how they came: no framing, no file, no Perl.
//
//	l, err := tgtvolume.New(1, spec.TgtStore{Type: "rdwr", Path: "/srv/d.img", Flags: "direct"}, "4096")
//	// l.Volume is file:///srv/d.img?direct=on
//	err = tgtvolume.Update(&l, "readonly", "1")
package tgtvolume
