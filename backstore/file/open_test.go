package file

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/backstore/backstoretest"
)

func closeNow(t testing.TB, st backstore.Store) {
	t.Helper()
	if err := st.Close(context.Background()); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func entries(t testing.TB, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// What cannot be opened is refused with one line that says why, and nothing is made or changed.
func TestRefused(t *testing.T) {
	for _, dir := range places(t) {
		small := filepath.Join(dir, "small.img")
		if err := os.WriteFile(small, []byte(strings.Repeat("x", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
		empty := filepath.Join(dir, "empty.img")
		if err := os.WriteFile(empty, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := entries(t, dir)
		for _, c := range []struct {
			uri   string
			class backstore.Class
			says  string
		}{
			{"file://%s/none.img", backstore.ClassNotFound, "does not exist"},
			{"file://%s/none.img?size=1M&readonly", backstore.ClassNotFound, "does not exist"},
			{"file://%s/no/such/dir.img?size=1M", backstore.ClassNotFound, "no such file or directory"},
			{"file://%s/small.img?size=1M", backstore.ClassRange, "fewer than size=1048576"},
			{"file://%s/small.img?size=1000", backstore.ClassRange, "multiple of 512"},
			{"file://%s/empty.img", backstore.ClassRange, "is empty"},
			{"file://%s/none.img?size=0", backstore.ClassRange, "0 bytes"},
			{"file://%s/none.img?size=big", backstore.ClassRange, "is no size"},
			{"file://%s/none.img?size=1M&cache=none", backstore.ClassUnsupported, "writeback or writethrough"},
			{"file://%s/none.img?size=1M&thin=thick", backstore.ClassUnsupported, "want on or off"},
			{"file://%s/none.img?size=7E&thin=off", backstore.ClassNoSpace, "none.img"},
			{"file://%s?size=1M", backstore.ClassUnsupported, "neither a file nor a block device"},
			{"file://%s/fifo", backstore.ClassUnsupported, "neither a file nor a block device"},
			{"file://host%s/none.img?size=1M", backstore.ClassUnsupported, "names a host"},
			{"file:?x=%s", backstore.ClassNotFound, "names no file"},
		} {
			uri := fmt.Sprintf(c.uri, dir)
			st, err := tryURI(uri)
			if err == nil {
				t.Errorf("%s was opened", uri)
				closeNow(t, st)
				continue
			}
			if backstore.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %q (%v), want %v and %q in one line", uri, err, backstore.ClassOf(err), c.class, c.says)
			}
		}
		if after := entries(t, dir); len(after) != len(before) {
			t.Errorf("refused openings left %v, there were %v", after, before)
		}
		if b, err := os.ReadFile(small); err != nil || len(b) != 1000 {
			t.Errorf("a file that was too small was changed: %d bytes, %v", len(b), err)
		}
	}
}

// A file that is made has its size, its mode and, by thin, its blocks; both ways of making one.
func TestCreate(t *testing.T) {
	const size = 8 << 20
	ways := map[string]func(string, config, func(string)) (int, error){"unnamed": create, "named": createNamed}
	for place, dir := range places(t) {
		for name, mk := range ways {
			for _, thin := range []bool{true, false} {
				path := filepath.Join(dir, fmt.Sprintf("%s%v.img", name, thin))
				cfg := config{size: size, thin: thin}
				fd, err := mk(path, cfg, func(string) {})
				if err != nil {
					t.Fatalf("%s %s: %v", place, name, err)
				}
				var st unix.Stat_t
				if err := unix.Stat(path, &st); err != nil {
					t.Fatal(err)
				}
				if st.Size != size || st.Mode&0o777 != createMode {
					t.Errorf("%s %s: %d bytes, mode %o", place, name, st.Size, st.Mode)
				}
				if blocks := st.Blocks * 512; thin && blocks > size/2 || !thin && blocks < size {
					t.Errorf("%s %s thin=%v: %d bytes are allocated of %d", place, name, thin, blocks, size)
				}
				unix.Close(fd)
				if _, err := mk(path, cfg, func(string) {}); err == nil {
					t.Errorf("%s %s: made again over itself", place, name)
				}
				cfg.size = 7 << 60
				cfg.thin = false
				if _, err := mk(path+"2", cfg, func(string) {}); err == nil {
					t.Errorf("%s %s: a file of 7 EiB was allocated", place, name)
				}
				if _, err := os.Stat(path + "2"); err == nil {
					t.Errorf("%s %s: what could not be made was left behind", place, name)
				}
			}
		}
	}
}

func TestLargerThanSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.img")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := backstore.ParseURI("file://" + path + "?size=4096")
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	st, err := Driver().Open(context.Background(), u, backstore.Options{Warn: func(s string) { said = append(said, s) }})
	if err != nil {
		t.Fatal(err)
	}
	if got := st.Info().Size; got != 8192 || len(said) != 1 || !strings.Contains(said[0], "more than size=4096") {
		t.Errorf("size %d, said %q", got, said)
	}
	closeNow(t, st)
}

// One writer, or readers, or those that share.
func TestLock(t *testing.T) {
	for _, dir := range places(t) {
		path := "file://" + filepath.Join(dir, "d.img")
		closeNow(t, openURI(t, path+"?size=1M"))
		for _, c := range []struct {
			first, second string
			both          bool
		}{
			{"", "", false}, {"", "?readonly", false}, {"?readonly", "", false}, {"", "?shared", false}, {"?shared", "", false},
			{"?readonly", "?readonly", true}, {"?shared", "?shared", true}, {"?shared", "?readonly", true},
		} {
			a := openURI(t, path+c.first)
			b, err := tryURI(path + c.second)
			if c.both != (err == nil) {
				t.Errorf("%q beside %q: %v", c.second, c.first, err)
			}
			if err == nil {
				closeNow(t, b)
			} else if !strings.Contains(err.Error(), fmt.Sprintf("held by this process (pid %d)", os.Getpid())) || backstore.ClassOf(err) != backstore.ClassBusy {
				t.Errorf("%q beside %q: %q", c.second, c.first, err)
			}
			closeNow(t, a)
		}
	}
}

// holdEnv makes this test binary open the file that it names and hold it until its standard input ends.
const holdEnv = "LUNAR_TEST_HOLD"

func TestMain(m *testing.M) {
	if path := os.Getenv(holdEnv); path != "" {
		st, err := tryURI("file://" + path)
		fmt.Println(err)
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		if err == nil {
			err = st.Close(context.Background())
		}
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestLockOfOtherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.img")
	closeNow(t, openURI(t, "file://"+path+"?size=1M"))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdEnv+"="+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "<nil>\n" {
		t.Fatalf("the other process: %q %v", line, err)
	}
	_, err = tryURI("file://" + path)
	if want := fmt.Sprintf("held by pid %d", cmd.Process.Pid); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the other process: %v", err)
	}
	closeNow(t, openURI(t, "file://"+path))
}

// The volume grows with its file; what is refused changes nothing.
func TestResizeFile(t *testing.T) {
	for _, thin := range []string{"on", "off"} {
		path := filepath.Join(t.TempDir(), "d.img")
		st := openURI(t, "file://"+path+"?size=1M&thin="+thin)
		if err := st.Resize(context.Background(), 4<<20); err != nil {
			t.Fatal(err)
		}
		for size, want := range map[int64]backstore.Class{0: backstore.ClassRange, 5<<20 + 1: backstore.ClassRange, 2<<20 - 1: backstore.ClassRange} {
			if err := st.Resize(context.Background(), size); backstore.ClassOf(err) != want || err == nil {
				t.Errorf("resize to %d: %v, want %v", size, err, want)
			}
		}
		var fs unix.Stat_t
		if err := unix.Stat(path, &fs); err != nil {
			t.Fatal(err)
		}
		if fs.Size != 4<<20 || st.Info().Size != 4<<20 {
			t.Errorf("the file has %d bytes, the volume %d", fs.Size, st.Info().Size)
		}
		if thin == "off" && fs.Blocks*512 < 4<<20 {
			t.Errorf("%d bytes are allocated after growing to 4 MiB with thin=off", fs.Blocks*512)
		}
		if err := st.Resize(context.Background(), 2<<20); err != nil {
			t.Errorf("shrinking: %v", err)
		}
		if err := unix.Stat(path, &fs); err != nil || fs.Size != 2<<20 || st.Info().Size != 2<<20 {
			t.Errorf("after shrinking to 2 MiB the file has %d bytes (%v), the volume %d", fs.Size, err, st.Info().Size)
		}
		closeNow(t, st)
		if err := st.Resize(context.Background(), 8<<20); backstore.ClassOf(err) != backstore.ClassOffline {
			t.Errorf("resize after Close: %v", err)
		}
	}
}

// A file that has got another size behind the store: it is told when it is asked, taken over when that is wanted, and never changed by that.
func TestAdoptSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.img")
	st := openURI(t, "file://"+path+"?size=1M")
	defer closeNow(t, st)
	for _, k := range []struct{ file, adopt, want int64 }{
		{4<<20 + 100, 4 << 20, 4 << 20}, {4<<20 + 100, 4<<20 + 512, 4 << 20}, {512 << 10, 512 << 10, 512 << 10}, {512 << 10, 512<<10 + 1, 512 << 10},
	} {
		if err := os.Truncate(path, k.file); err != nil {
			t.Fatal(err)
		}
		before := st.Info().Size
		if now, err := st.PresentSize(context.Background()); err != nil || now != k.file || st.Info().Size != before {
			t.Errorf("the present size is %d (%v), want %d; Info went from %d to %d", now, err, k.file, before, st.Info().Size)
		}
		if err := st.AdoptSize(context.Background(), k.adopt); (err == nil) != (k.adopt == k.want) || st.Info().Size != k.want {
			t.Errorf("adopting %d of %d: %v, and the volume has %d", k.adopt, k.file, err, st.Info().Size)
		}
		if fi, err := os.Stat(path); err != nil || fi.Size() != k.file {
			t.Errorf("the file has %d bytes (%v), want %d as before", fi.Size(), err, k.file)
		}
	}
}

// thin decides about discards, and Info says so.
func TestInfo(t *testing.T) {
	dir := t.TempDir()
	for opts, c := range map[string]struct{ has, hasNot backstore.Caps }{
		"":                   {backstore.CapFlush | backstore.CapFUA | backstore.CapDiscard | backstore.CapWriteZeroes | backstore.CapAllocation, backstore.CapCancel | backstore.CapDPO},
		"thin=off":           {backstore.CapFlush | backstore.CapWriteZeroes, backstore.CapDiscard},
		"cache=writethrough": {backstore.CapFUA, backstore.CapFlush | backstore.CapNoWaitWrite},
	} {
		st := openURI(t, "file://"+filepath.Join(dir, "x"+opts)+"?size=1M&"+opts)
		i := st.Info()
		if !i.Has(c.has) || i.Caps&c.hasNot != 0 || i.Identity != "" || i.Shared || i.DiscardZeroes != i.Has(backstore.CapDiscard) {
			t.Errorf("%q: %+v", opts, i)
		}
		closeNow(t, st)
	}
}

// A thin volume gives discarded space back to the file system, and keeps what must stay allocated.
func TestSpace(t *testing.T) {
	for place, dir := range places(t) {
		path := filepath.Join(dir, "d.img")
		h := backstoretest.NewHarness(t, openURI(t, "file://"+path+"?size=4M"), true)
		h.Write(0, bytes.Repeat([]byte{7}, 4<<20), 0)
		do := func(op backstore.Op, f backstore.Flags, off int64) {
			t.Helper()
			if err := h.Do(&backstore.Request{Op: op, Flags: f, Off: off, Len: 1 << 20}); err != nil {
				t.Fatal(err)
			}
			if err := h.Do(&backstore.Request{Op: backstore.Flush}); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			op    backstore.Op
			flags backstore.Flags
			off   int64
			want  int64
		}{{backstore.WriteZeroes, backstore.KeepAllocated, 0, 4 << 20}, {backstore.Discard, 0, 1 << 20, 3 << 20}, {backstore.WriteZeroes, 0, 2 << 20, 2 << 20}} {
			do(c.op, c.flags, c.off)
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			if got := st.Blocks * 512; got < c.want || got > c.want+256<<10 {
				t.Errorf("%s: %d bytes are allocated after %v with flags %b, want about %d", place, got, c.op, c.flags, c.want)
			}
			h.Want(c.off, make([]byte, 1<<20), "zeroes")
		}
		h.Want(3<<20, bytes.Repeat([]byte{7}, 1<<20), "the rest")
		h.Close()
	}
}

// Offsets beyond 2 TiB and 2^32 blocks reach the file whole, inline, through the ring and by workers.
func TestLarge(t *testing.T) {
	const size, edge = 3 << 40, 2 << 40
	for place, dir := range places(t) {
		for _, attach := range []bool{false, true} {
			path := filepath.Join(dir, fmt.Sprintf("large%v.img", attach))
			h := backstoretest.NewHarness(t, openURI(t, "file://"+path+"?size=3T"), attach)
			for n, off := range []int64{0, edge - 4096, edge, size - 4096} {
				h.Write(off, bytes.Repeat([]byte{byte(n + 1)}, 4096), backstore.Flags(n%2)*backstore.FUA)
			}
			h.Write(edge-512, bytes.Repeat([]byte{9}, 1024), backstore.FUA)
			h.Want(0, bytes.Repeat([]byte{1}, 4096), place+": the start")
			h.Want(edge-4096, append(bytes.Repeat([]byte{2}, 4096-512), bytes.Repeat([]byte{9}, 1024)...), place+": around 2 TiB")
			h.Want(size-4096, bytes.Repeat([]byte{4}, 4096), place+": the end")
			r := &backstore.Request{Op: backstore.Allocation, Off: edge - 4096, Len: size - edge + 4096, Extents: make([]backstore.Extent, 0, 4)}
			if err := h.Do(r); err != nil || len(r.Extents) != 3 || r.Extents[0] != (backstore.Extent{Off: edge - 4096, Len: 8192, State: backstore.Mapped}) {
				t.Errorf("%s: allocation %v %v", place, r.Extents, err)
			}
			h.Close()
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
}
