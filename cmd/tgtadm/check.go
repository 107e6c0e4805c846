package main

import (
	"bytes"
	"fmt"

	"github.com/lunar-iscsi/lunar/admin/tgtipc"
)

// check refuses, in tgtadm's order and words, what the daemon need not be asked.
func (c *command) check() error {
	switch {
	case c.op == noOp:
		return fmt.Errorf("tgtadm: specify the operation type")
	case c.mode == noMode:
		return fmt.Errorf("tgtadm: specify the mode")
	}
	switch c.mode {
	case tgtipc.ModeSystem:
		return c.checkSystem()
	case tgtipc.ModeTarget:
		return c.checkTarget()
	case tgtipc.ModeAccount:
		return c.checkAccount()
	case tgtipc.ModeDevice:
		return c.checkDevice()
	case tgtipc.ModePortal:
		return c.checkPortal()
	case tgtipc.ModeLLD:
		switch c.op {
		case tgtipc.OpStart, tgtipc.OpStop, tgtipc.OpShow:
			return c.allow("LmoC", "lld mode: option '-%c' is not allowed/supported")
		}
		return fmt.Errorf("tgtadm: option %d not supported in lld mode", c.op)
	}
	return nil // session and connection: whatever is given is sent
}

// allow refuses, in a message of the given format, the first option that is not among letters.
func (c *command) allow(letters, format string) error {
	for _, short := range c.given {
		if short != 'd' && bytes.IndexByte([]byte(letters), short) < 0 {
			return fmt.Errorf("tgtadm: "+format, short)
		}
	}
	return nil
}

// unsupported is the refusal of the operation as such.
func (c *command) unsupported() error {
	return fmt.Errorf("tgtadm: operation %s not supported in %s mode", name(ops, c.op), name(modes, c.mode))
}

func (c *command) needNameAndValue() error {
	if c.name == nil || c.value == nil {
		return fmt.Errorf("tgtadm: update operation requires 'name' and 'value' options")
	}
	return nil
}

func (c *command) checkSystem() error {
	switch c.op {
	case tgtipc.OpUpdate:
		if err := c.allow("LmonvC", "system mode: option '-%c' is not allowed/supported"); err != nil {
			return err
		}
		return c.needNameAndValue()
	case tgtipc.OpShow, tgtipc.OpDelete, tgtipc.OpStats:
		return nil
	}
	return c.unsupported()
}

func (c *command) checkTarget() error {
	const format = "target mode: option '-%c' is not allowed/supported"
	if c.op != tgtipc.OpShow {
		switch {
		case c.tid < 0:
			return fmt.Errorf("tgtadm: 'tid' option is necessary")
		case c.tid == 0:
			return fmt.Errorf("tgtadm: 'tid' cannot be 0")
		}
	}
	switch c.op {
	case tgtipc.OpNew:
		if err := c.allow("LmotTC", format); err != nil {
			return err
		}
		if c.targetname == nil {
			return fmt.Errorf("tgtadm: creating new target requires a name, use --targetname")
		}
		return nil
	case tgtipc.OpDelete:
		return c.allow("LmotCF", format)
	case tgtipc.OpShow, tgtipc.OpStats:
		return c.allow("LmotC", format)
	case tgtipc.OpBind, tgtipc.OpUnbind:
		if err := c.allow("LmotIQBHC", format); err != nil {
			return err
		}
		if c.address == nil && c.iqn == nil && c.host == 0 {
			// The missing blank is tgt's.
			return fmt.Errorf("tgtadm: %s operation requires initiator-address, initiator-nameor bus", name(ops, c.op))
		}
		return nil
	case tgtipc.OpUpdate:
		if err := c.allow("LmotnvC", format); err != nil {
			return err
		}
		return c.needNameAndValue()
	}
	return c.unsupported()
}

func (c *command) checkAccount() error {
	const format = "account mode: option '-%c' is not allowed/supported"
	switch c.op {
	case tgtipc.OpNew:
		if err := c.allow("LmoupfC", format); err != nil {
			return err
		}
		if c.user == nil || c.password == nil {
			return fmt.Errorf("tgtadm: 'user' and 'password' options are required")
		}
		return nil
	case tgtipc.OpShow:
		return c.allow("LmoC", format)
	case tgtipc.OpDelete:
		return c.allow("LmouC", format)
	case tgtipc.OpBind, tgtipc.OpUnbind:
		if err := c.allow("LmotuOC", format); err != nil {
			return err
		}
		if c.user == nil {
			return fmt.Errorf("tgtadm: 'user' option is necessary")
		}
		return nil
	}
	return c.unsupported()
}

func (c *command) checkDevice() error {
	switch {
	case c.tid < 0:
		return fmt.Errorf("tgtadm: 'tid' option is necessary")
	case c.tid == 0:
		return fmt.Errorf("tgtadm: 'tid' must not be 0")
	case c.lun == tgtipc.NoLUN:
		return fmt.Errorf("tgtadm: 'lun' option is necessary")
	}
	const format = "logicalunit mode: option '-%c' is not allowed/supported"
	switch c.op {
	case tgtipc.OpNew:
		if err := c.allow("LmofytlbEYCS", format); err != nil {
			return err
		}
		if c.path == nil && c.deviceType != tgtipc.DeviceCD && c.deviceType != tgtipc.DeviceTape && c.deviceType != tgtipc.DeviceDisk {
			return fmt.Errorf("tgtadm: 'backing-store' option is necessary")
		}
		return nil
	case tgtipc.OpDelete, tgtipc.OpStats:
		return c.allow("LmotlC", format)
	case tgtipc.OpUpdate:
		return c.allow("LmofytlPC", "option '-%c' not supported in logicalunit mode")
	}
	return c.unsupported()
}

func (c *command) checkPortal() error {
	switch c.op {
	case tgtipc.OpNew, tgtipc.OpDelete:
		if err := c.allow("LmoCP", "portal mode: option '-%c' is not allowed/supported"); err != nil {
			return err
		}
		if c.portal == nil {
			return fmt.Errorf("tgtadm: you must specify --param portal=<portal>")
		}
		return nil
	case tgtipc.OpShow:
		return c.allow("LmoC", "option '-%c' not supported in portal mode")
	}
	return c.unsupported()
}
