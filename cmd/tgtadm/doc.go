// Command tgtadm is lunar's stand-in for tgt's administration program of that name: the same command line, the same checks in the
// same order with the same words, the same bytes on the management socket and the same exit statuses, so that programs and people who
// drive tgtd through it need not know which daemon, or which tgtadm, they have.
//
// It knows tgt's command line and the management socket. It must not know what a target is: whether a request makes sense is for the
// daemon to say, lunard or the real tgtd, and where lunard says why it refused, that follows on a second line of stderr.
//
// One file is one step: getopt.go (glibc's rules of a command line), number.go (strtoull's), options.go (what each option sets),
// check.go (what tgtadm refuses to send), request.go (what is sent), exchange.go (the socket). The protocol's words are admin/tgtipc's.
package main
