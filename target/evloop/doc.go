// Package evloop is the event loop that a target runs on: epoll, wake-up, timers, parking, the loop's
// lock, and pools of buffers. It knows nothing of iSCSI or SCSI.
//
//	g, err := evloop.NewGroup()
//	l, err := g.NewLoop(evloop.Config{Name: "disk1"}, handler)
//	l.Lock()
//	id, err := l.Add(fd, conn, evloop.Readable)
//	l.Unlock()
//	…
//	l.Close()
//	g.Close()
package evloop
