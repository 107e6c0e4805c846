// Package sample reads what was captured of tgt 1.0.85: commands, and the bytes and statuses that tgtadm, tgt-admin and tgtd answered.
//
// It knows the layout of the files in admin/tgtipc/testdata/samples, and not what they are compared with.
//
//	for _, b := range sample.Blocks(t, "41-server-errors.txt") {
//		run(sample.Words(b.Command), b.Stdout, b.Exit)
//	}
//
// It promises nothing to programs outside this module.
package sample
