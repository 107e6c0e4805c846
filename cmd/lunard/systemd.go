package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/admin"
)

// A systemd tells the service manager how the daemon is, as sd_notify(3) has it. Without one that listens it does nothing.
type systemd struct {
	log  *asyncLog
	once sync.Once
	quit chan struct{}
	done chan struct{}
}

// newSystemd begins to tell that the daemon lives, if the unit asks for it (WatchdogSec=): twice in each interval, and only when
// every loop has turned.
func newSystemd(m *admin.Manager, log *asyncLog) *systemd {
	s := &systemd{log: log, quit: make(chan struct{}), done: make(chan struct{})}
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the service manager's watchdog interval cannot be read", "error", err)
	}
	go s.watchdog(m, every/2)
	return s
}

func (s *systemd) watchdog(m *admin.Manager, every time.Duration) {
	defer close(s.done)
	if every <= 0 {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-s.quit:
			return
		case <-tick.C:
			s.alive(m, every)
		}
	}
}

// alive tells that the daemon lives, if every loop turns: one that does not has initiators that wait for ever.
func (s *systemd) alive(m *admin.Manager, within time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := m.Server().Turning(ctx); err != nil {
		s.log.Warn("no sign of life for the service manager", "error", err)
		return
	}
	s.tell(daemon.SdNotifyWatchdog)
}

func (s *systemd) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("the service manager could not be told", "state", state, "error", err)
	}
}

func (s *systemd) ready()    { s.tell(daemon.SdNotifyReady) }
func (s *systemd) stopping() { s.tell(daemon.SdNotifyStopping) }

// reloading tells that a reload has begun, and when: the manager takes an older READY for the one before (sd_notify(3)).
func (s *systemd) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		s.log.Warn("no clock", "error", err)
	}
	s.tell(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// stop ends the watchdog's goroutine.
func (s *systemd) stop() {
	s.once.Do(func() { close(s.quit) })
	<-s.done
}
