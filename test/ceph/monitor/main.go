//go:build rbd && cgo

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"github.com/ceph/go-ceph/rados"
)

// Nothing waits for ever: librados gives up after these many seconds.
var bounds = map[string]string{"client_mount_timeout": "20", "rados_mon_op_timeout": "20", "rados_osd_op_timeout": "5"}

type request struct {
	PG      string          `json:"pg"` // empty: for the monitors
	Command json.RawMessage `json:"command"`
}

type answer struct {
	Out    string `json:"out"`
	Status string `json:"status"` // what the monitor says in words
	Err    string `json:"err"`    // empty: it was done
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: monitor CONF")
		os.Exit(2)
	}
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "monitor:", err)
		os.Exit(1)
	}
}

func serve(conf string) error {
	c, err := rados.NewConn()
	if err != nil {
		return err
	}
	if err := c.ReadConfigFile(conf); err != nil {
		return fmt.Errorf("%s: %w", conf, err)
	}
	for name, value := range bounds {
		if err := c.SetConfigOption(name, value); err != nil {
			return fmt.Errorf("%s=%s: %w", name, value, err)
		}
	}
	if err := c.Connect(); err != nil {
		return fmt.Errorf("connecting by %s: %w", conf, err)
	}
	defer c.Shutdown()
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for in.Scan() {
		var q request
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			return fmt.Errorf("%s: %w", in.Bytes(), err)
		}
		if err := out.Encode(do(c, q)); err != nil {
			return err
		}
	}
	return in.Err()
}

func do(c *rados.Conn, q request) (a answer) {
	var out []byte
	var err error
	if q.PG == "" {
		out, a.Status, err = c.MonCommand(q.Command)
	} else {
		out, a.Status, err = c.PGCommand([]byte(q.PG), [][]byte{q.Command})
	}
	if a.Out = string(out); err != nil {
		a.Err = err.Error()
	}
	return a
}
