// Command nebdserver is test/nebd as a process of its own, which can be killed and started again: SIGTERM ends it as Server.Stop does. After SIGUSR1
// it carries out no I/O any more and answers none, as when its cluster hangs; after SIGUSR2 that which comes then.
//
//	nebdserver --pool DIR --socket /tmp/nebd.sock --meta /tmp/nebdserver.meta
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/lunar-iscsi/lunar/test/nebd"
)

// abort is the status of a process that has ended by SIGABRT, as a shell has it.
const abort = 128 + int(syscall.SIGABRT)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "nebdserver:", err)
		os.Exit(1)
	}
}

func run() error {
	cfg := nebd.Config{Died: func(why string) {
		fmt.Fprintln(os.Stderr, "nebdserver:", why)
		os.Exit(abort)
	}}
	dir := flag.String("pool", "", "folder of the volumes")
	flag.StringVar(&cfg.Socket, "socket", "", "unix socket to listen on")
	flag.StringVar(&cfg.Meta, "meta", "", "file of the open volumes")
	flag.BoolVar(&cfg.ReturnErrors, "return-errors", false, "answer failed I/O with -1 rather than not at all")
	flag.DurationVar(&cfg.HeartbeatTimeout, "heartbeat-timeout", 0, "close what has had no heartbeat for so long (30s)")
	flag.DurationVar(&cfg.HeartbeatCheck, "heartbeat-check", 0, "look so often (3s)")
	flag.Int64Var(&cfg.Segment, "segment", 0, "bytes by which volumes grow (1 GiB)")
	flag.Parse()
	if *dir == "" || cfg.Socket == "" || cfg.Meta == "" {
		return fmt.Errorf("--pool, --socket and --meta are needed")
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGINT)
	var err error
	if cfg.Pool, err = nebd.NewPool(*dir); err != nil {
		return err
	}
	s, err := nebd.Start(cfg)
	if err != nil {
		return err
	}
	fmt.Println("ready") // whoever has started it waits for this
	hang := make(chan os.Signal, 1)
	signal.Notify(hang, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for sig := range hang {
			if sig == syscall.SIGUSR1 {
				s.SetFaults(func(string, string, int64, int64) nebd.Fault { return nebd.Wait })
			} else {
				s.SetFaults(nil)
			}
		}
	}()
	<-term
	s.Stop()
	return nil
}
