package deps

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// WaitStopped returns when a child of this process has come to a stop, or has ended: a SIGSTOP is carried out when one of its threads gets to run, and until
// then the others go on.
func WaitStopped(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			if err != nil {
				err = fmt.Errorf("waiting until process %d has stopped: %w", pid, err)
			}
			return err
		}
	}
}
