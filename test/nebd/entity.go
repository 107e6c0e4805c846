package nebd

import (
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// flags are ProtoOpenFlags as they came, or empty where there were none.
type flags string

// exclusive is what libcurve makes of them: without any, it is.
func (f flags) exclusive() bool { return string(f) != "\x08\x00" }

// An entity is a descriptor: one a name. Guarded by Server.mu.
type entity struct {
	name    string
	fd      int32
	flags   flags
	volume  string // its path
	data    string // its file
	file    *os.File
	block   int64
	size    int64 // at the time of the open
	seen    time.Time
	busy    int  // requests that hold its lock
	lost    int  // of these, those that will for ever
	closing bool // CloseFile waits for the lock, and everything else behind it
}

var errScheme = errors.New("not a volume of Curve")

// split takes a name apart as libcurve does: behind the first "/", up to the last ":", with the owner between the last two "_".
func split(name string) (volume, owner string, err error) {
	scheme, rest, _ := strings.Cut(name, ":")
	_, curve, ok := strings.Cut(rest, "/")
	if scheme != "cbd" || !ok {
		return "", "", errScheme
	}
	if i := strings.LastIndexByte(curve, ':'); i >= 0 {
		curve = curve[:i]
	}
	last := strings.LastIndexByte(curve, '_')
	if last < 0 {
		return "", "", errScheme
	}
	first := strings.LastIndexByte(curve[:last], '_')
	if first < 0 {
		return "", "", errScheme
	}
	return curve[:first], curve[first+1 : last], nil
}

// open opens the entity's volume.
func (e *entity) open(p *Pool, f flags) error {
	volume, owner, err := split(e.name)
	if err != nil {
		return err
	}
	v, err := p.Stat(volume)
	if err != nil {
		return err
	}
	if v.Owner != "" && v.Owner != owner {
		return errors.New("another owner")
	}
	data, err := p.Data(volume)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(data, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return errors.Join(err, file.Close())
	}
	e.volume, e.data, e.file, e.flags, e.block, e.size, e.seen = volume, data, file, f, int64(v.Block), v.Size, time.Now()
	return nil
}

// shut closes the volume and keeps the descriptor.
func (e *entity) shut() {
	if e.file != nil {
		_ = e.file.Close() // what was written is in the page cache, and stays there whatever happens to this process
		e.file = nil
	}
}

// there reports whether the volume is still the one that was opened.
func (e *entity) there() bool {
	named, err := os.Stat(e.data)
	if err != nil {
		return false
	}
	ours, err := e.file.Stat()
	return err == nil && os.SameFile(ours, named)
}
