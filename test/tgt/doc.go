// Package tgt holds what programs of the field do with tgt to each daemon that is to be tgt for them: the real tgtd, which shows what
// they may expect, and lunard under that name. Each test runs the command lines of one program in its order, reads the output by the
// patterns that the program reads it by, and is run with both daemons and both tgtadm, tgt's own and ours; what these print has to be the
// same, but for what a test names as different for a reason.
//
// It knows both daemons by their command line, their socket and their portal, and must not import what lunard is made of. tgtd and
// its tools are Debian's (scripts/test-deps tgt).
//
// LUNAR_TGT=tgtd or LUNAR_TGT=lunard runs one daemon alone.
package tgt
