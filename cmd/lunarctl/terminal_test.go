package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/test/deps"
)

// terminal opens a pseudo terminal: the user's side, and the program's.
func terminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		deps.Skip(t, "no pseudo terminals: "+err.Error())
	}
	t.Cleanup(func() { user.Close() })
	fd := int(user.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		deps.Skip(t, "no pseudo terminals: "+err.Error())
	}
	t.Cleanup(func() { program.Close() })
	return user, program
}

// TestPrompt: on a terminal the secret is asked for twice and not shown, and the terminal shows what is typed again afterwards.
func TestPrompt(t *testing.T) {
	for _, c := range []struct{ first, second, err string }{{"a secret of hers", "a secret of hers", ""}, {"a secret of hers", "another", "not the same"}} {
		user, program := terminal(t)
		type result struct {
			secret string
			err    error
		}
		done := make(chan result, 1)
		go func() {
			cmd := &cobra.Command{}
			cmd.SetIn(program)
			cmd.SetErr(program)
			s, err := readSecret(cmd, "", "alice")
			fmt.Fprint(program, "END\n")
			done <- result{s, err}
		}()
		r := bufio.NewReader(user)
		var seen strings.Builder
		until := func(text string) {
			for !strings.HasSuffix(seen.String(), text) {
				b, err := r.ReadByte()
				if err != nil {
					t.Fatalf("%v after %q", err, seen.String())
				}
				seen.WriteByte(b)
			}
		}
		until("Secret of alice: ")
		io.WriteString(user, c.first+"\n")
		until("The same again: ")
		io.WriteString(user, c.second+"\n")
		until("END\r\n")
		got := <-done
		if c.err == "" && (got.err != nil || got.secret != c.first) || c.err != "" && (got.err == nil || !strings.Contains(got.err.Error(), c.err)) {
			t.Errorf("%+v: %q, %v", c, got.secret, got.err)
		}
		if strings.Contains(seen.String(), c.first) || strings.Contains(seen.String(), c.second) {
			t.Errorf("the terminal shows %q", seen.String())
		}
		if old, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS); err != nil || old.Lflag&unix.ECHO == 0 {
			t.Errorf("the terminal shows nothing any more, %v", err)
		}
	}
}

// TestPromptInterrupted: an interrupt ends the question, and the terminal is as before.
func TestPromptInterrupted(t *testing.T) {
	user, program := terminal(t)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := &cobra.Command{}
	cmd.SetContext(ctx)
	cmd.SetIn(program)
	cmd.SetErr(program)
	done := make(chan error, 1)
	go func() {
		_, err := readSecret(cmd, "", "alice")
		done <- err
	}()
	user.SetReadDeadline(time.Now().Add(testTime))
	if _, err := user.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Error(err)
	}
	if now, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS); err != nil || now.Lflag&unix.ECHO == 0 {
		t.Errorf("the terminal shows nothing any more, %v", err)
	}
	io.WriteString(user, "\n") // lets the reader go
}

// TestProgress: on a terminal, work that takes long is told of on a line that goes away; elsewhere nothing is written.
func TestProgress(t *testing.T) {
	user, program := terminal(t)
	cmd := &cobra.Command{}
	cmd.SetErr(program)
	told := make(chan struct{})
	work := errors.New("how the work ended")
	done := make(chan error, 1)
	go func() {
		c := &cli{}
		done <- c.watch(cmd, "draining x", func() string { return "3 sessions left" }, func() error { <-told; return work })
	}()
	user.SetReadDeadline(time.Now().Add(testTime))
	var seen strings.Builder
	b := make([]byte, 1)
	for !strings.Contains(seen.String(), "3 sessions left") {
		if _, err := user.Read(b); err != nil {
			t.Fatalf("%v after %q", err, seen.String())
		}
		seen.Write(b)
	}
	close(told)
	if err := <-done; !errors.Is(err, work) {
		t.Error(err)
	}
	for !strings.HasSuffix(seen.String(), "\r\x1b[K") {
		if _, err := user.Read(b); err != nil {
			t.Fatalf("the line stays: %v after %q", err, seen.String())
		}
		seen.Write(b)
	}
	var quiet strings.Builder
	cmd.SetErr(&quiet)
	if err := (&cli{}).watch(cmd, "x", nil, func() error { return nil }); err != nil || quiet.Len() != 0 {
		t.Errorf("%v, %q", err, quiet.String())
	}
}
