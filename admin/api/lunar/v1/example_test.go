package lunarv1_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	lunarv1 "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

// A disk is made, harmless to repeat, and all targets are listed. docs/api.md shows this function.
func addDisk(socket string) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	targets := lunarv1.NewTargetServiceClient(conn)
	_, err = targets.AddTarget(ctx, &lunarv1.AddTargetRequest{AllowExisting: true, Target: &lunarv1.Target{
		Name:   "iqn.2026-11.io.lunar:disk",
		Luns:   []*lunarv1.Lun{{Number: 1, Volume: "mem:?size=64M"}},
		Access: []*lunarv1.Rule{{Initiator: "iqn.1993-08.org.debian:01:host"}},
	}})
	if err != nil {
		return err
	}
	list, err := targets.ListTargets(ctx, &lunarv1.ListTargetsRequest{Live: true})
	for _, t := range list.GetTargets() {
		fmt.Println(t.GetSpec().GetName(), "has", len(t.GetSpec().GetLuns()), "LUNs and", t.GetLive().GetSessions(), "sessions")
	}
	return err
}

func Example() {
	// A daemon within this process stands for /run/lunar/lunard.sock.
	socket, stop, err := startDaemon()
	if err != nil {
		log.Fatal(err)
	}
	defer stop()
	for range 2 {
		if err := addDisk(socket); err != nil {
			fmt.Fprintln(os.Stdout, err)
		}
	}
	// Output:
	// iqn.2026-11.io.lunar:disk has 1 LUNs and 0 sessions
	// iqn.2026-11.io.lunar:disk has 1 LUNs and 0 sessions
}
