package lifecycle

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
	"github.com/lunar-iscsi/lunar/session/initiator"
	"github.com/lunar-iscsi/lunar/test/daemon"
)

// told sends a command to LUN 1 and returns how it ended: "good", a status, or key/asc/ascq.
func told(t *testing.T, ctx context.Context, s *initiator.Session, cdb, out []byte, in int) string {
	t.Helper()
	res, err := s.Command(ctx, sam.NewLUN(1), cdb, out, in)
	if err != nil {
		t.Fatal(err)
	}
	if res.Status != sam.CheckCondition {
		return fmt.Sprint(res.Status)
	}
	d, err := sense.Parse(res.Sense)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x/%02x/%02x", uint8(d.Key), d.Code.ASC(), d.Code.ASCQ())
}

func loginTo(t *testing.T, ctx context.Context, d *daemon.Daemon) *initiator.Session {
	t.Helper()
	s, err := initiator.Login(ctx, initiator.Options{Portal: d.Addr, TargetName: daemon.Prefix + disk, ISID: [6]byte{0x80, 0, 0, 0, 0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// transfer is a READ(10) or WRITE(10) of one block at LBA 0.
func transfer(op byte) []byte { return []byte{op, 0, 0, 0, 0, 0, 0, 0, 1, 0} }

// A command that its volume does not end is answered when its time is over, where the export says so, by the daemon's own clock; the volume goes on for the rest,
// and the log tells of it.
func TestTimeout(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), answerLimit)
	defer cancel()
	d := daemon.Start(t, daemon.Export(disk, "faulty:?inner=mem%3A%3Fsize%3D1M&rule=write%20hang%20count%3D1&timeout=1s&on_timeout=error"))
	s := loginTo(t, ctx, d)
	told(t, ctx, s, initiator.TestUnitReady(), nil, 0) // the unit attention
	if got := told(t, ctx, s, transfer(0x2a), make([]byte, 512), 0); got != "2/04/01" {
		t.Errorf("a write that the volume does not end: %s", got)
	}
	if got := told(t, ctx, s, transfer(0x2a), make([]byte, 512), 0); got != "2/04/01" {
		t.Errorf("the same write again: %s", got)
	}
	if got := told(t, ctx, s, []byte{0x28, 0, 0, 0, 0, 8, 0, 0, 1, 0}, nil, 512); got != "GOOD" {
		t.Errorf("a read elsewhere: %s", got)
	}
	d.WaitLog(t, 0, "the volume of a LUN does not answer")
}

// A volume that is not there yet leaves its LUN there, where the export or the file says so, and heals by itself; else the start fails.
func TestVolumeThatComes(t *testing.T) {
	for name, args := range map[string]func(dir, path string) []string{
		"export": func(_, path string) []string {
			return []string{daemon.Export(disk, daemon.FileURI(path, "away=offline"))}
		},
		"file": func(dir, path string) []string {
			conf := filepath.Join(dir, "lunar.yaml")
			text := fmt.Sprintf("targets:\n  - name: %s%s\n    access: [ALL]\n    luns:\n      - lun: 1\n        volume: %q\n", daemon.Prefix, disk, daemon.FileURI(path, ""))
			if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"--config=" + conf}
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), answerLimit)
			defer cancel()
			dir := t.TempDir()
			path := filepath.Join(dir, "late.img")
			d := daemon.Start(t, args(dir, path)...)
			s := loginTo(t, ctx, d)
			told(t, ctx, s, initiator.TestUnitReady(), nil, 0)
			if got := told(t, ctx, s, transfer(0x28), nil, 512); got != "2/04/01" {
				t.Fatalf("without its volume: %s", got)
			}
			if err := os.WriteFile(path+".new", make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
			d.WaitLog(t, 0, "a volume could be opened after all")
			heard := ""
			for range 6 {
				got := told(t, ctx, s, transfer(0x28), nil, 512)
				if got == "GOOD" {
					break
				}
				heard += got + " "
			}
			if !strings.HasPrefix(heard, "6/28/00 ") || !strings.Contains(heard, "6/2a/09 ") || strings.Contains(heard, "2/04/01") {
				t.Fatalf("with its volume: %s", heard)
			}
		})
	}
}
