package tgt

// daemons are those that the suite runs with.
var daemons = [...]string{tgtd, lunard}
