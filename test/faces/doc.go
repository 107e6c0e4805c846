// Package faces tests that lunard's faces (tgt's management socket with Debian's own tgtadm, gRPC with lunarctl, configuration files, metrics)
// show one and the same daemon: what each of them counts agrees with what initiators have counted, to the last byte, and what is set
// through one of them is seen through all others and served again after a kill -9.
//
// It knows lunard, lunarctl and tgtadm by their command lines. It promises nothing to programs outside this module.
package faces
