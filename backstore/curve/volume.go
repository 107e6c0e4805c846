package curve

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// A volume is a descriptor of nebd-server, which this process opens once for all of its stores: the server has one a name, without counting who uses it.
type volume struct {
	h *host
	name
	lockDir string

	refs   int             // guarded by h.mu
	stores map[*Store]bool // guarded by h.mu

	turn chan struct{} // holds a token while the descriptor is opened or closed
	lock *fileLock     // guarded by turn
	fd   atomic.Int32  // 0: not open; changed by the holder of turn
}

// acquire opens a volume, or takes part in what is open. The caller gives it back with release, which gives the host back as well.
func (p *process) acquire(ctx context.Context, c *config) (*volume, error) {
	h := p.use(c)
	h.mu.Lock()
	for _, v := range h.volumes {
		if n := v.doubtful(); n > 0 && v.path == c.path && v.conf == c.conf {
			h.mu.Unlock()
			h.drop()
			return nil, &backstore.Error{Class: backstore.ClassBusy, Op: "open", Cause: fmt.Errorf("nebd-server has not answered %d writes from before it was closed here, which may still be carried out; when nebd-server is started again they are sent again", n)}
		}
	}
	v := h.volumes[c.nebd]
	if v == nil {
		v = &volume{h: h, name: c.name, lockDir: c.lockDir, stores: map[*Store]bool{}, turn: make(chan struct{}, 1)}
		h.volumes[c.nebd] = v
	}
	v.refs++
	h.mu.Unlock()
	err := v.begin(ctx, c.patience)
	if err != nil {
		v.release()
		return nil, err
	}
	return v, nil
}

// doubtful is how many writes of closed stores have not been answered. Called with h.mu held.
func (v *volume) doubtful() (n int) {
	for s := range v.stores {
		n += s.doubtful()
	}
	return n
}

// take waits for the turn.
func (v *volume) take(ctx context.Context) error {
	select {
	case v.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return &backstore.Error{Class: backstore.ClassTimeout, Op: "open", Cause: fmt.Errorf("it is being opened or closed: %w", ctx.Err())}
	}
}

func (v *volume) give() { <-v.turn }

// begin opens the descriptor if it is not open.
func (v *volume) begin(ctx context.Context, patience time.Duration) error {
	if err := v.take(ctx); err != nil {
		return err
	}
	defer v.give()
	if v.fd.Load() != 0 {
		return nil
	}
	lock, err := takeLock(v.lockDir, v.nebd)
	if err != nil {
		return err
	}
	fd, err := v.openFile(ctx, patience, v.nebd)
	if err != nil {
		lock.release()
		return err
	}
	v.lock = lock
	v.fd.Store(fd)
	return nil
}

var errNotOpened = errors.New("nebd-server does not open it: there is no such volume, it has another owner, or its cluster is away")

func (v *volume) openFile(ctx context.Context, patience time.Duration, name string) (int32, error) {
	answer, err := v.h.call(ctx, patience, "OpenFile", openMessage(name))
	if err != nil {
		return 0, err
	}
	r, err := parseOpen(answer)
	if err != nil {
		return 0, &backstore.Error{Class: backstore.ClassTransport, Op: "OpenFile", Cause: err}
	}
	if r.code != 0 {
		return 0, &backstore.Error{Class: backstore.ClassNotFound, Op: "open", Cause: fmt.Errorf("%s: %w", name, errNotOpened)}
	}
	return r.fd, nil
}

// getInfo asks for a descriptor's size, as it was when the server opened it, and block.
func (v *volume) getInfo(ctx context.Context, patience time.Duration, fd int32) (info, error) {
	answer, err := v.h.call(ctx, patience, "GetInfo", fdMessage(fd))
	if err != nil {
		return info{}, err
	}
	r, err := parseInfo(answer)
	if err != nil {
		return info{}, &backstore.Error{Class: backstore.ClassTransport, Op: "GetInfo", Cause: err}
	}
	if r.code != 0 {
		return info{}, &backstore.Error{Class: backstore.ClassMedium, Op: "GetInfo", Cause: fmt.Errorf("descriptor %d: %w", fd, errFailed)}
	}
	return r.info, nil
}

// sizeAlias is the pool's text of the name under which a volume is opened to ask for its size.
const sizeAlias = "lunar-size"

// present asks for the volume's present size. A descriptor tells of the size that the volume had when it was opened, so another name of the volume is opened
// for that: twice, since a process that died there may have left it open.
func (v *volume) present(ctx context.Context) (info, error) {
	alias := v.alias(sizeAlias)
	lock, err := waitLock(ctx, v.lockDir, alias)
	if err != nil {
		return info{}, err
	}
	defer lock.release()
	stale, err := v.openFile(ctx, 0, alias)
	if err != nil {
		return info{}, err
	}
	if _, err = v.h.call(ctx, 0, "CloseFile", fdMessage(stale)); err != nil {
		return info{}, err
	}
	fd, err := v.openFile(ctx, 0, alias)
	if err != nil {
		return info{}, err
	}
	i, err := v.getInfo(ctx, 0, fd)
	if _, closeErr := v.h.call(ctx, 0, "CloseFile", fdMessage(fd)); err == nil {
		err = closeErr
	}
	return i, err
}

// reopen asks the server to open the volume again, after it was started anew or has said that it does not know the descriptor. Of one that is open it
// answers the same descriptor. Asking for another would write to another volume if the server had lost its records and given the number away.
func (v *volume) reopen(ctx context.Context) error {
	if err := v.take(ctx); err != nil {
		return err
	}
	defer v.give()
	if v.fd.Load() == 0 {
		return nil // closed meanwhile
	}
	fd, err := v.openFile(ctx, 0, v.nebd)
	if err != nil {
		return err
	}
	if v.fd.Swap(fd) == fd {
		return nil
	}
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	for s := range v.stores {
		s.renew(fd)
	}
	return nil
}

// enter and leave note who has requests under way on the descriptor.
func (v *volume) enter(s *Store) {
	v.h.mu.Lock()
	v.stores[s] = true
	v.h.mu.Unlock()
}

func (v *volume) leave(s *Store) {
	v.h.mu.Lock()
	delete(v.stores, s)
	v.h.mu.Unlock()
}

// release gives a volume back. The last one closes the descriptor: no request is under way on it any more.
func (v *volume) release() {
	v.turn <- struct{}{} // the holder's calls are bounded
	v.h.mu.Lock()
	v.refs--
	last := v.refs == 0
	v.h.mu.Unlock()
	if last {
		v.end()
	}
	v.h.mu.Lock()
	if v.refs == 0 {
		delete(v.h.volumes, v.nebd) // else somebody waits for the turn to open it again
	}
	v.h.mu.Unlock()
	v.give()
	v.h.drop()
}

// end closes the descriptor. A server that is away or does not answer keeps it, without harm: it closes what sends no heartbeats, and answers the next
// OpenFile with it.
func (v *volume) end() {
	fd := v.fd.Swap(0)
	if fd == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	_, _ = v.h.call(ctx, 0, "CloseFile", fdMessage(fd)) // see above
	v.lock.release()
	v.lock = nil
}
