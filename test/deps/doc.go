// Package deps finds the programs of others that tests run: those that scripts/test-deps unpacked,
// else those that the system has installed.
//
// It knows the layout of the cache folder and which environment a program unpacked there needs. It must
// not know what the programs are used for.
//
// A test that lacks a program is skipped by name; where LUNAR_CI is set it fails instead, so that
// nothing passes by not running. This package and no other may skip a test: what needs leave to skip
// calls Skip here.
//
//	qemuImg := deps.Find(t, "qemu-img")
//	out, err := qemuImg.Command(t.Context(), "info", url).CombinedOutput()
//
// It promises nothing to programs outside this module.
package deps
