//go:build e2e

package hostile

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/session/initiator/load"
	"github.com/lunar-iscsi/lunar/session/pdu"
	"github.com/lunar-iscsi/lunar/target"
)

func TestThousandNeverLogIn(t *testing.T) { neverLogIn(t, 1000, 400, 5*time.Second) }

func TestHundredsAreGreedy(t *testing.T) { greedy(t, 800) }

// A minute of everything at once, beside a load of which each read is compared.
func TestMinuteOfEverything(t *testing.T) {
	f := newField(t, target.Config{SendTimeout: 3 * time.Second, LoginTimeout: 3 * time.Second, Limit: session.Limits{DataTimeout: 3 * second, TMFTimeout: second}})
	if err := f.store.Set("any hang every=3; any delay=30ms"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	disk := newStore(t)
	if err := f.tg.AddDisk(3, disk, scsi.DiskConfig{Identity: "load"}); err != nil {
		t.Fatal(err)
	}
	var peers sync.WaitGroup
	for i, act := range []func(c *initiator.Conn, i int){
		func(c *initiator.Conn, _ int) { send(c, nop(c, 4096, true), make([]byte, 4096)) },
		func(c *initiator.Conn, i int) { send(c, c.Request(pdu.Opcode(i%32), true), nil) },
		func(c *initiator.Conn, i int) {
			h := c.Request(pdu.OpTaskMgmtReq, true)
			(*pdu.TaskMgmtReq)(h).SetFunction([]sam.TMF{sam.LogicalUnitReset, sam.AbortTaskSet, sam.AbortTask}[i%3])
			h.SetLUN(bad)
			send(c, h, nil)
		},
		func(c *initiator.Conn, i int) {
			send(c, c.CommandHeader(bad, write10(uint32(i%100*512), 512), false, true, 256<<10), nil)
		},
		func(c *initiator.Conn, i int) {
			send(c, c.CommandHeader(bad, read10(uint32(i%100*512), 512), true, false, 256<<10), nil)
		},
		func(c *initiator.Conn, i int) {
			c.CmdSN += pdu.SN(i % 2)
			send(c, nop(c, 512, false), make([]byte, 512))
		},
		func(c *initiator.Conn, i int) {
			junk := make([]byte, 48+i%1000)
			for k := range junk {
				junk[k] = byte(k * i)
			}
			_ = c.SendBytes(junk)
		},
		func(c *initiator.Conn, i int) { c.Close() },
	} {
		peers.Add(1)
		go func() {
			defer peers.Done()
			for round := 0; ctx.Err() == nil; round++ {
				c, err := initiator.Dial(ctx, f.addr.String())
				if err != nil {
					continue
				}
				c.Timeout = time.Second // one that takes nothing is left alone
				name := fmt.Sprintf("iqn.2026-11.io.lunar:everything-%d", i)
				_, err = c.Login(initiator.SecurityKeys(name, targetName), initiator.Keys{{Name: "InitialR2T", Value: "No"}})
				for k := 0; k < 2000 && err == nil && ctx.Err() == nil; k++ {
					act(c, k)
				}
				c.Close()
			}
		}()
	}
	rep, err := load.Run(ctx, load.Config{Options: initiator.Options{Portal: f.addr.String(), TargetName: targetName, InitiatorName: "iqn.2026-11.io.lunar:load", Wait: patience},
		LUN: sam.NewLUN(3), BlockSize: 16 << 10, Depth: 8, ReadPercent: 60, Connections: 2, Fill: true, Verify: 1, Duration: time.Minute, Seed: 1})
	cancel()
	peers.Wait()
	if err != nil || rep.Errors != 0 || rep.Verified == 0 {
		t.Fatalf("%v; %+v", err, rep)
	}
	st := f.s.Stats()
	t.Logf("%d reads compared beside %d logins; dropped %v; logins lost %v; %+v", rep.Verified, st.Logins, st.Drops, st.LoginsLost, st.Commands)
}
