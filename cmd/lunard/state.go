package main

import (
	"fmt"
	"time"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/journal"
)

// saved is where what is set is kept for the next start; both may be nil.
type saved struct {
	state admin.State
	shut  func() error
}

func (s *saved) close() error {
	if s.shut == nil {
		return nil
	}
	return s.shut()
}

// openState opens what --state-dir keeps.
func (o *options) openState(log *asyncLog) (*saved, error) {
	way, err := journal.ParseRecovery(o.recover)
	if err != nil {
		return nil, usageError{fmt.Errorf("--recover-state: %w", err)}
	}
	dir := o.cfg.StateDir
	if dir == "" {
		return &saved{}, nil
	}
	fs, err := journal.Dir(dir)
	if err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	j, err := journal.Open(fs, journal.Options{Log: log.Warn, Recover: way, Stamp: time.Now().UTC().Format("20060102T150405Z")})
	if err != nil {
		return nil, fmt.Errorf("--state-dir %s: %w", dir, err)
	}
	return &saved{j, j.Close}, nil
}
