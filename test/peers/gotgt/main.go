// Command gotgt serves files with github.com/gostor/gotgt, for comparison in benchmarks.
//
//	gotgt --port 3290 --export iqn.2026-11.io.lunar:disk=/dev/shm/disk.img
//
// Each export is one target with the file as LUN 0 (in R2T gotgt names LUN 0 whatever the task's is). It does what gotgt's own daemon does, but for the configuration file
// in the home directory and the HTTP service. gotgt cannot be told which address to listen on: it takes the port on all.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/gostor/gotgt/pkg/config"
	_ "github.com/gostor/gotgt/pkg/port/iscsit" // registers the driver "iscsi"
	"github.com/gostor/gotgt/pkg/scsi"
	_ "github.com/gostor/gotgt/pkg/scsi/backingstore" // registers the store "file"
	"github.com/sirupsen/logrus"
)

// lun is the number of each target's one disk.
const lun = "0"

func main() {
	port := flag.Int("port", 3260, "TCP `port` on all addresses")
	conf := &config.Config{ISCSITargets: map[string]config.ISCSITarget{}}
	flag.Func("export", "`IQN=FILE`, repeatable", func(s string) error { return export(conf, s) })
	flag.Parse()
	logrus.SetLevel(logrus.ErrorLevel)
	if err := run(*port, conf); err != nil {
		fmt.Fprintln(os.Stderr, "gotgt:", err)
		os.Exit(1)
	}
}

// export adds one target with one disk.
func export(c *config.Config, s string) error {
	iqn, file, ok := strings.Cut(s, "=")
	if !ok || iqn == "" || file == "" {
		return errors.New("want IQN=FILE")
	}
	id := uint64(1000 + len(c.Storages))
	c.Storages = append(c.Storages, config.BackendStorage{DeviceID: id, Path: "file:" + file, Online: true, BlockShift: 9})
	c.ISCSITargets[iqn] = config.ISCSITarget{TPGTs: map[string][]uint64{"1": {0}}, LUNs: map[string]uint64{lun: id}}
	return nil
}

func run(port int, c *config.Config) error {
	c.ISCSIPortals = []config.ISCSIPortalInfo{{ID: 0, Portal: "127.0.0.1:" + strconv.Itoa(port)}}
	if err := scsi.InitSCSILUMap(c); err != nil {
		return err
	}
	driver, err := scsi.NewTargetDriver("iscsi", scsi.NewSCSITargetService())
	if err != nil {
		return err
	}
	for iqn := range c.ISCSITargets {
		if err := driver.NewTarget(iqn, c); err != nil {
			return fmt.Errorf("target %s: %w", iqn, err)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- driver.Run(port) }()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	select {
	case err := <-ended:
		return err
	case <-stop:
		return nil
	}
}
