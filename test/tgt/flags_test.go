package tgt

import "testing"

// The command line of the daemon itself: what it prints of itself, and every mistake with its words and status, which init scripts see.
func TestDaemonFlags(t *testing.T) {
	eachOn(t, nil, "", func(p *plant) {
		for _, args := range []string{
			"-V", "--version", "-h", "--help", "--vers", "-C abc", "-C 70000", "-C -1", "-C", "-t 0", "-t x", "--nr_iothreads=0", "-d 5", "-d x", "--debug 2",
			"--nosuch", "-Z", "--iscsi=portal=127.0.0.1:0",
		} {
			// lunard has a line more, where tgtd does not say what is wrong.
			p.run("timeout 10 tgtd " + args + " 2>&1 | grep -v '^tgtd: '; exit ${PIPESTATUS[0]}")
		}
	})
}
