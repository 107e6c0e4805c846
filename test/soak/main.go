package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	var c config
	flag.Uint64Var(&c.seed, "seed", uint64(time.Now().UnixNano())&0xffffffff, "what everything that is done follows from")
	flag.DurationVar(&c.time, "time", 10*time.Minute, "how long")
	flag.IntVar(&c.initiators, "initiators", 8, "how many, 1 to 200")
	flag.IntVar(&c.targets, "targets", 2, "how many, with three disks each")
	flag.DurationVar(&c.restart, "restart", 15*time.Second, "mean time between ends of lunard; 0: none")
	flag.BoolVar(&c.hang, "hang", true, "a disk among them on a store of which requests hang until lunard ends")
	flag.StringVar(&c.dir, "dir", "", "folder for the volumes (default: a temporary one, which is removed)")
	flag.DurationVar(&c.progress, "progress", 10*time.Second, "how often to say how far it is")
	flag.Parse()
	if err := checkFlags(&c, flag.NArg()); err != nil {
		fmt.Fprintf(os.Stderr, "soak: %v\n", err)
		os.Exit(2)
	}
	if err := start(c); err != nil {
		fmt.Fprintf(os.Stderr, "soak: seed %d: %v\nrun it again: go run ./test/soak -seed %d -time %v -initiators %d -targets %d -restart %v -hang=%v\n",
			c.seed, err, c.seed, c.time, c.initiators, c.targets, c.restart, c.hang)
		os.Exit(1)
	}
}

func checkFlags(c *config, rest int) error {
	switch {
	case rest > 0:
		return fmt.Errorf("no arguments are expected; see -help")
	case c.initiators < 1 || c.initiators > 200:
		return fmt.Errorf("-initiators %d: want 1 to 200", c.initiators)
	case c.targets < 1 || c.targets > 100:
		return fmt.Errorf("-targets %d: want 1 to 100", c.targets)
	case c.time <= 0 || c.restart < 0 || c.progress < 0:
		return fmt.Errorf("a time below 0")
	}
	return nil
}

func start(c config) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if c.dir == "" {
		dir, err := os.MkdirTemp("", "soak")
		if err != nil {
			return err
		}
		defer func() {
			if err := os.RemoveAll(dir); err != nil {
				fmt.Fprintf(os.Stderr, "soak: %v\n", err)
			}
		}()
		c.dir = dir
	}
	fmt.Printf("soak: seed %d, %v, %d initiators on %d targets\n", c.seed, c.time, c.initiators, c.targets)
	return soak(ctx, c, os.Stdout)
}
