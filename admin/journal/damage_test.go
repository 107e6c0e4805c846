package journal_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/journal"
	"github.com/lunar-iscsi/lunar/admin/journal/journaltest"
)

// filled makes a journal of three changes behind the first record, and returns its folder, and what was there after each.
func filled(t *testing.T) (*journaltest.FS, []model) {
	t.Helper()
	fs := journaltest.New(1)
	j, err := journal.Open(fs, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	states := []model{{}}
	for _, set := range []map[string][]byte{{"target/1": []byte(`{"tid":1}`), "system": []byte(`{}`)}, {"target/2": []byte(`{"tid":2}`)}, {"target/1": nil}} {
		if err := j.Save(set); err != nil {
			t.Fatal(err)
		}
		states = append(states, modelOf(j))
	}
	j.Close()
	return fs, states
}

// open opens what a folder has after its file was changed.
func open(data []byte, o journal.Options) (*journaltest.FS, *journal.Journal, error) {
	fs := journaltest.New(1)
	fs.Set(journal.Name, data)
	j, err := journal.Open(fs, o)
	return fs, j, err
}

// A byte that has changed, wherever it is, is found: the start is refused, and nothing is touched.
func TestEveryByte(t *testing.T) {
	fs, _ := filled(t)
	data := fs.Get(journal.Name)
	for at := range data {
		for _, flip := range []byte{1, 0x80, 0xff} {
			bad := append([]byte(nil), data...)
			bad[at] ^= flip
			after, _, err := open(bad, journal.Options{})
			var e *journal.DamageError
			if !errors.As(err, &e) {
				t.Fatalf("byte %d changed by %#x: %v", at, flip, err)
			}
			if string(after.Get(journal.Name)) != string(bad) || len(after.Names()) != 1 {
				t.Fatalf("byte %d: the folder is not what it was: %v", at, after.Names())
			}
			if e.Offset > int64(at) || !strings.Contains(err.Error(), "--recover-state=discard") || !strings.Contains(err.Error(), "/state/lunard.state") {
				t.Fatalf("byte %d: %v", at, err)
			}
		}
	}
}

// A file that ends anywhere within its last record, or has zeroes from there on, is one whose last change was under way. Cut shorter it cannot
// be told from one that had fewer changes; a record that others follow, or the header, is never dropped.
func TestTails(t *testing.T) {
	fs, states := filled(t)
	data := fs.Get(journal.Name)
	before, err := tailOf(data)
	if err != nil {
		t.Fatal(err)
	}
	for end := before + 1; end < len(data); end++ {
		var told int
		log := func(string, ...any) { told++ }
		for _, tail := range [][]byte{data[:end], append(append([]byte(nil), data[:end]...), make([]byte, len(data)-end+700)...)[:max(len(data), end)]} {
			if len(tail) == len(data) && end%512 != 0 && end != before {
				continue // zeroes in the midst of a sector are no unfinished write
			}
			told = 0
			after, j, err := open(tail, journal.Options{Log: log})
			if err != nil {
				t.Fatalf("cut at %d: %v", end, err)
			}
			if got := modelOf(j); !maps.Equal(got, states[len(states)-2]) {
				t.Fatalf("cut at %d: %v", end, got)
			}
			if told != 1 {
				t.Errorf("cut at %d: %d lines in the log", end, told)
			}
			j.Close()
			if _, err := journal.Open(after, journal.Options{}); err != nil {
				t.Fatalf("cut at %d, and opened again: %v", end, err)
			}
		}
	}
	for _, zeroes := range []int{1, 19, 20, 512, 4096} {
		_, j, err := open(append(append([]byte(nil), data...), make([]byte, zeroes)...), journal.Options{})
		if err != nil || !maps.Equal(modelOf(j), states[len(states)-1]) {
			t.Errorf("%d zeroes behind it: %v", zeroes, err)
		}
	}
	for end := range 36 { // within the header and the first record
		if _, _, err := open(data[:end], journal.Options{}); end < 16 && err == nil {
			t.Errorf("a file of %d bytes was taken", end)
		}
	}
}

// tailOf is where the last record begins.
func tailOf(data []byte) (int, error) {
	at := 16
	for {
		n := int(uint32(data[at]) | uint32(data[at+1])<<8 | uint32(data[at+2])<<16 | uint32(data[at+3])<<24)
		if next := at + 20 + n; next >= len(data) {
			return at, nil
		} else if next < at {
			return 0, errors.New("no record")
		} else {
			at = next
		}
	}
}

// The ways out of a damaged file: each does what it says, and keeps the damaged one.
func TestRecover(t *testing.T) {
	fs, states := filled(t)
	data := fs.Get(journal.Name)
	last, err := tailOf(data)
	if err != nil {
		t.Fatal(err)
	}
	bad := append([]byte(nil), data...)
	bad[last+25] ^= 1
	older := journaltest.New(2)
	j, err := journal.Open(older, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Save(map[string][]byte{"old": []byte("1")}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		how      journal.Recovery
		previous bool
		want     model // nil: refused
	}{{journal.None, true, nil}, {journal.Salvage, true, states[2]}, {journal.UsePrevious, true, model{"old": "1"}}, {journal.UsePrevious, false, nil}, {journal.Discard, true, model{}}} {
		for stop := 0; ; stop++ { // and stopped anywhere on the way the damage is still there, or the way has been gone
			fs := journaltest.New(uint64(stop))
			fs.Set(journal.Name, bad)
			if c.previous {
				fs.Set(journal.Previous, older.Get(journal.Name))
			}
			if stop > 0 {
				fs.StopAt(stop)
			}
			j, err := journal.Open(fs, journal.Options{Recover: c.how, Stamp: "now"})
			if fs.Stopped() {
				again, err := journal.Open(fs.Restart(true), journal.Options{})
				var e *journal.DamageError
				if err == nil && !maps.Equal(modelOf(again), c.want) || err != nil && !errors.As(err, &e) {
					t.Fatalf("%q, stopped at %d: %v", c.how, stop, err)
				}
				continue
			}
			if c.want == nil {
				if err == nil {
					t.Fatalf("%q was taken", c.how)
				}
				break
			}
			if err != nil {
				t.Fatalf("%q: %v", c.how, err)
			}
			if !maps.Equal(modelOf(j), c.want) {
				t.Errorf("%q: %v, want %v", c.how, modelOf(j), c.want)
			}
			if string(fs.Get(journal.Name+".damaged-now")) != string(bad) {
				t.Errorf("%q: the damaged file is not kept", c.how)
			}
			if string(fs.Get(journal.Previous)) == string(bad) {
				t.Errorf("%q: the damaged file is kept as the one to go back to", c.how)
			}
			if stop > 0 {
				break
			}
		}
	}
}

// The absence of the file beside an older one is not taken for a first start.
func TestGone(t *testing.T) {
	fs, _ := filled(t)
	gone := journaltest.New(3)
	gone.Set(journal.Previous, fs.Get(journal.Name))
	if _, err := journal.Open(gone, journal.Options{}); err == nil || !strings.Contains(err.Error(), "taken it away") {
		t.Error(err)
	}
	if j, err := journal.Open(gone, journal.Options{Recover: journal.UsePrevious}); err != nil || len(j.Objects()) == 0 {
		t.Error(err)
	}
}

// On the machine's own file system: mode 0600, one process at a time, written anew when it has grown, and all that parallel calls saved is there.
func TestDir(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "state")
	fs, err := journal.Dir(path)
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(fs, journal.Options{CompactBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Open(fs, journal.Options{}); !errors.Is(err, journal.ErrLocked) || !strings.Contains(err.Error(), "pid") {
		t.Error("a second one:", err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := range 20 {
				if err := j.Save(map[string][]byte{"target/" + string(rune('a'+i)): append([]byte(`"`), append(make([]byte, 0), strings.Repeat("x", n+1)+`"`...)...)}); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	want := modelOf(j)
	if len(want) != 8 || len(want["target/h"]) != 22 {
		t.Errorf("%v", want)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(path, journal.Name))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if d, err := os.Stat(path); err != nil || d.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", d.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(path, journal.Previous)); err != nil {
		t.Error("it was never written anew:", err)
	}
	again, err := journal.Open(fs, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(modelOf(again), want) {
		t.Errorf("%v, want %v", modelOf(again), want)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if err := again.Save(nil); !errors.Is(err, journal.ErrClosed) {
		t.Error(err)
	}
}

// A sector that reads as zeroes is an unfinished write only where nothing follows it.
func TestLostSector(t *testing.T) {
	for pad := range 60 { // so that every part of a record comes to lie on a border
		fs := journaltest.New(4)
		j, err := journal.Open(fs, journal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if err := j.Save(map[string][]byte{"target/1": []byte(`"` + strings.Repeat("x", 40+pad) + `"`)}); err != nil {
				t.Fatal(err)
			}
		}
		data := fs.Get(journal.Name)
		for at := 512; at+1024 < len(data); at += 512 { // what is behind may be of the same write
			bad := append([]byte(nil), data...)
			clear(bad[at : at+512])
			if _, _, err := open(bad, journal.Options{}); err == nil {
				t.Errorf("pad %d: zeroes at %d of %d were taken for an unfinished write", pad, at, len(data))
			}
		}
	}
}

// After an fsync that failed, what the file had been told of may be lost though it still reads well: it is not built upon.
func TestSuspect(t *testing.T) {
	fs, _ := filled(t)
	j, err := journal.Open(fs, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	fs.FailAt(2, errors.New("injected")) // the write, then the fsync
	if err := j.Save(map[string][]byte{"x": []byte("1")}); err == nil {
		t.Fatal("it was saved")
	}
	if fs.Get(journal.Previous) != nil {
		if err := fs.Remove(journal.Previous); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Save(map[string][]byte{"x": []byte("2")}); err != nil {
		t.Fatal(err)
	}
	if fs.Get(journal.Previous) == nil {
		t.Error("it goes on with the file whose fsync failed")
	}
}

// A folder that others may write to is no place for secrets and for what is served to whom.
func TestDirOfEverybody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	for mode, fine := range map[os.FileMode]bool{0o700: true, 0o755: true, 0o770: true, 0o777: false, 0o702: false, 0o777 | os.ModeSticky: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := journal.Dir(path); (err == nil) != fine || err != nil && !strings.Contains(err.Error(), "every user of this machine") {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	fs, err := journal.Dir(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("elsewhere", filepath.Join(path, "lunard.lock")); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Open(fs, journal.Options{}); err == nil {
		t.Error("a link in the lock's place is followed")
	}
	if _, err := os.Lstat(filepath.Join(path, "elsewhere")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("where it leads: %v", err)
	}
}
