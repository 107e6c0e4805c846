package journal

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"sync"
)

// The names in the folder.
const (
	Name     = "lunard.state"     // the file
	Previous = "lunard.state.old" // the one before it was last written anew
	scratch  = "lunard.state.new" // one that is being written
	lockName = "lunard.lock"
)

// compactBytes is the least size at which a file is written anew. It is read whole at the start: some ms then.
const compactBytes = 1 << 20

// Options say how a journal is opened.
type Options struct {
	// Log takes what an administrator should know: a text, and pairs of a name and a value. Nil drops it.
	Log func(msg string, kv ...any)
	// Recover is what to do with a damaged file; None: refuse it.
	Recover Recovery
	// Stamp is part of the name that a damaged file gets: say the time.
	Stamp string
	// CompactBytes is the size from which on the file is written anew when it has doubled since; 0: 1 MiB.
	CompactBytes int64
}

// A Journal is open for as long as its process has the folder. Its methods may be called from any goroutine.
type Journal struct {
	fs   FS
	o    Options
	lock io.Closer

	mu      sync.Mutex // guards next, and objects against Objects
	next    *batch     // changes that go together, or nil
	objects map[string][]byte

	writing sync.Mutex // held by whoever writes; guards what follows
	f       File
	seq     uint64
	size    int64
	base    int64 // size when the file was last written anew
	suspect bool  // an fsync has failed: what it had been told of may be lost for good, though it is still read
	broken  error // what a restart would find is not known; nil: it is
	closed  bool
}

// A batch is what goes in one record.
type batch struct {
	set  map[string][]byte
	done chan struct{}
	err  error // set before done is closed
}

// ErrClosed is what a closed journal returns.
var ErrClosed = errors.New("the state is closed")

// Open takes the folder for this process and reads what is there. A folder without a file is an empty journal.
func Open(fs FS, o Options) (*Journal, error) {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if o.CompactBytes == 0 {
		o.CompactBytes = compactBytes
	}
	lock, err := fs.Lock(lockName)
	if err != nil {
		if errors.Is(err, ErrLocked) {
			return nil, fmt.Errorf("the state folder is in use by another lunard: %s: %w", fs.Path(lockName), err)
		}
		return nil, fmt.Errorf("the state folder cannot be locked: %w", err)
	}
	j := &Journal{fs: fs, o: o, lock: lock}
	if err := j.load(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return j, nil
}

// load reads the file, and sees to it that it can be appended to.
func (j *Journal) load() error {
	if err := j.fs.Remove(scratch); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("what an unfinished write has left: %w", err)
	}
	data, err := j.fs.ReadFile(Name)
	if errors.Is(err, os.ErrNotExist) {
		return j.begin()
	}
	if err != nil {
		return fmt.Errorf("the saved state: %w", err)
	}
	r, f := read(data)
	if f != nil {
		return j.recover(r, f)
	}
	j.objects, j.seq, j.size, j.base = r.objects, r.seq, r.size, r.size
	if r.torn == "" {
		if j.o.Recover != None {
			j.o.Log("the saved state is not damaged: there is nothing to recover", "file", j.File())
		}
		j.f, err = j.fs.Append(Name, false)
		return err
	}
	j.o.Log("a change of the saved state was under way when the machine or the daemon stopped; it had not been answered, and is dropped",
		"file", j.File(), "at", r.size, "bytes", int64(len(data))-r.size, "why", r.torn)
	return j.rewrite()
}

// begin makes the file where there is none.
func (j *Journal) begin() error {
	j.objects = map[string][]byte{}
	if _, err := j.fs.ReadFile(Previous); err == nil && j.o.Recover == None {
		return fmt.Errorf("there is %s, but no %s: somebody has taken it away. Put it back, or start with --recover-state=previous, which uses the older one, or with --recover-state=discard, which begins with nothing",
			j.fs.Path(Previous), j.File())
	}
	if j.o.Recover == UsePrevious {
		return j.recover(reading{}, &fault{why: "it is not there"})
	}
	return j.rewrite()
}

// Objects returns what is kept, key by key. The values are not to be changed.
func (j *Journal) Objects() map[string][]byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	return maps.Clone(j.objects)
}

// File is where the file is, for people.
func (j *Journal) File() string { return j.fs.Path(Name) }

// Save makes a change durable: it sets objects, and removes those whose value is nil. When it returns an error nothing has
// changed, or, as the error then says, a restart would find the change or not. Values are not to be changed afterwards.
func (j *Journal) Save(set map[string][]byte) error {
	j.mu.Lock()
	b := j.next
	leads := b == nil
	if leads {
		b = &batch{set: map[string][]byte{}, done: make(chan struct{})}
		j.next = b
	}
	maps.Copy(b.set, set)
	j.mu.Unlock()
	if !leads {
		<-b.done
		return b.err
	}
	j.writing.Lock() // others join the batch meanwhile
	defer j.writing.Unlock()
	j.mu.Lock()
	j.next = nil
	j.mu.Unlock()
	defer close(b.done)
	b.err = j.append(b.set)
	return b.err
}

// append writes one record. The holder of writing calls it.
func (j *Journal) append(set map[string][]byte) error {
	switch {
	case j.closed:
		return ErrClosed
	case j.broken != nil || j.suspect:
		if err := j.rewrite(); err != nil {
			if j.broken != nil {
				return fmt.Errorf("%s could not be written, and now not written anew either: changes are refused until it can be: %w", j.File(), err)
			}
			return fmt.Errorf("%s: %w", j.File(), err)
		}
		j.o.Log("the saved state could be written anew", "file", j.File())
	}
	c := changeOf(set)
	rec, err := newRecord(j.seq+1, c)
	if err != nil {
		return err
	}
	n, err := j.f.Write(rec)
	if err == nil && n < len(rec) {
		err = io.ErrShortWrite
	}
	if err == nil {
		if err = j.f.Sync(); err != nil {
			j.suspect = true
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", j.File(), j.cutOff(err))
	}
	j.seq++
	j.size += int64(len(rec))
	j.mu.Lock()
	c.apply(j.objects)
	j.mu.Unlock()
	if j.size >= j.o.CompactBytes && j.size >= 2*j.base {
		if err := j.rewrite(); err != nil {
			j.base = j.size // not again with every change
			j.o.Log("the saved state could not be written anew; it goes on growing", "file", j.File(), "bytes", j.size, "error", err)
		}
	}
	return nil
}

// cutOff takes an append that failed out of the file again.
func (j *Journal) cutOff(cause error) error {
	err := j.f.Truncate(j.size)
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		j.broken = cause
		return fmt.Errorf("%w; and what was written of it could not be cut off (%w): a restart may find the change. Further changes are refused until the file can be written anew", cause, err)
	}
	return cause
}

// rewrite writes a file with what is kept, and puts it in the place of the one before. On an error that one stays, unless broken says
// otherwise.
func (j *Journal) rewrite() error { return j.write(true) }

// write is rewrite; without keep the file before is not kept under another name.
func (j *Journal) write(keep bool) error {
	rec, err := newRecord(j.seq+1, change{All: true, Set: changeOf(j.objects).Set})
	if err != nil {
		return err
	}
	f, err := j.fs.Append(scratch, true)
	if err != nil {
		return err
	}
	data := append(newHeader(), rec...)
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err == nil && keep {
		if err = j.fs.Link(Name, Previous); errors.Is(err, os.ErrNotExist) {
			err = nil // the first one
		}
	}
	if err == nil {
		err = j.fs.Rename(scratch, Name)
	}
	if err != nil {
		// What is left of it is removed by the next try, and by the next start.
		return errors.Join(err, f.Close())
	}
	if j.f != nil {
		_ = j.f.Close() // the file before: all of it is in the new one
	}
	j.f, j.size, j.base = f, int64(len(data)), int64(len(data))
	j.seq++
	if err := j.fs.Sync(); err != nil {
		// Either file may have the name after a loss of power. Both have what is kept now, but only one would have what comes.
		j.broken = err
		return err
	}
	j.suspect, j.broken = false, nil
	return nil
}

// Close lets the folder go. What was saved is durable already.
func (j *Journal) Close() error {
	j.writing.Lock()
	defer j.writing.Unlock()
	if j.closed {
		return ErrClosed
	}
	j.closed = true
	return errors.Join(j.f.Close(), j.lock.Close())
}
