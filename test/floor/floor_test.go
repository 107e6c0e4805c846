package main

import (
	"bufio"
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/initiator"
)

const testTimeout = time.Minute

// startFloor builds and starts a floor over a file of n bytes. The floor blocks its thread in raw system calls, which a
// test's own runtime could not live with.
func startFloor(t *testing.T, n int64) (portal, file string) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "floor")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	file = filepath.Join(dir, "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, n); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, "--listen", "127.0.0.1:0", "--file", file)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill() // it has no other end
		_ = c.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line[strings.LastIndexByte(line, ' ')+1 : len(line)-1], file
}

// TestReadsAndWrites: with each way that data of a WRITE can come, what is written is in the file and reads back.
func TestReadsAndWrites(t *testing.T) {
	const size = 8 << 20
	portal, file := startFloor(t, size)
	for _, c := range []struct {
		name  string
		offer func(*initiator.Params)
		bytes int
	}{
		{"immediate", func(*initiator.Params) {}, 4096},
		{"unsolicited alone", func(p *initiator.Params) { p.ImmediateData = false }, 256 << 10},
		{"immediate, then R2T of InitialR2T=No", func(*initiator.Params) {}, 1 << 20},
		{"immediate, then R2T", func(p *initiator.Params) { p.InitialR2T, p.FirstBurstLength = true, 65536 }, 1 << 20},
		{"R2T alone, several bursts", func(p *initiator.Params) {
			p.InitialR2T, p.ImmediateData, p.FirstBurstLength, p.MaxBurstLength = true, false, 65536, 65536
		}, 1 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
			defer cancel()
			offer := initiator.DefaultOffer()
			c.offer(&offer)
			s, err := initiator.Login(ctx, initiator.Options{Portal: portal, TargetName: "iqn.2026-11.io.lunar:any", Offer: &offer, Lenient: true})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			data := make([]byte, c.bytes)
			rng := rand.New(rand.NewPCG(1, uint64(c.bytes)))
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			const lba = 1234
			var cdb [16]byte
			initiator.PutWrite(&cdb, lba, uint32(c.bytes/blockSize))
			command(t, ctx, s, cdb[:], data, 0)
			all, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(all[lba*blockSize:][:c.bytes], data) {
				t.Error("the file does not hold what was written")
			}
			initiator.PutRead(&cdb, lba, uint32(c.bytes/blockSize))
			if got := command(t, ctx, s, cdb[:], nil, c.bytes); !bytes.Equal(got, data) {
				t.Error("what is read is not what was written")
			}
			if err := s.Logout(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDiscoversSize: an initiator learns the size and finds a disk.
func TestDiscoversSize(t *testing.T) {
	const size = 3 << 20
	portal, _ := startFloor(t, size)
	s, err := initiator.Login(t.Context(), initiator.Options{Portal: portal, TargetName: "iqn.2026-11.io.lunar:any"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	got := command(t, t.Context(), s, initiator.ReadCapacity16(32), nil, 32)
	if last := uint64(size/blockSize - 1); got[7] != byte(last) || got[6] != byte(last>>8) || got[10] != blockSize>>8 {
		t.Errorf("READ CAPACITY(16) answers % x", got)
	}
	if got := command(t, t.Context(), s, initiator.Inquiry(36), nil, 36); !bytes.Contains(got, []byte("FLOOR")) {
		t.Errorf("INQUIRY answers %q", got)
	}
	if _, err := s.Ping(t.Context(), nil); err != nil {
		t.Errorf("NOP-Out: %v", err)
	}
}

func command(t *testing.T, ctx context.Context, s *initiator.Session, cdb, out []byte, in int) []byte {
	t.Helper()
	r, err := s.Command(ctx, sam.NewLUN(1), cdb, out, in)
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		t.Fatalf("command % x: %v", cdb[0], err)
	}
	return r.Data
}
