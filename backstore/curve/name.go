package curve

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/lunar-iscsi/lunar/backstore"
)

// maxName is the longest name that nebd-server takes, in bytes.
const maxName = 1024

// A name is a volume's name as curve-tgt and libnebd write it: cbd:POOL/PATH_USER_[:CONF].
type name struct {
	nebd string // the whole of it
	path string // of the volume, with its leading "/"
	user string // its owner
	conf string // the client.conf that nebd-server is to open it with; empty: its own
}

var errName = errors.New("want cbd:POOL//VOLUME_USER_ or cbd:POOL//VOLUME_USER_:/etc/curve/client.conf")

// parseName takes what is behind "cbd:" apart. The pool's text, up to the first "/", means nothing to Curve.
func parseName(s string) (n name, err error) {
	n.nebd = "cbd:" + s
	_, curve, ok := strings.Cut(s, "/")
	if !ok || len(n.nebd) > maxName {
		return n, errName
	}
	if i := strings.LastIndexByte(curve, ':'); i >= 0 {
		curve, n.conf = curve[:i], curve[i+1:]
	}
	rest, ok := strings.CutSuffix(curve, "_")
	i := strings.LastIndexByte(rest, '_')
	if !ok || i < 0 {
		return n, fmt.Errorf("it does not end in _USER_, the volume's owner: %w", errName)
	}
	n.path, n.user = rest[:i], rest[i+1:]
	if len(n.path) < 2 || n.path[0] != '/' || n.user == "" || strings.HasSuffix(n.path, "/") {
		return n, errName
	}
	return n, nil
}

// alias is another name of the same volume, which nebd-server opens separately.
func (n *name) alias(pool string) string {
	_, rest, _ := strings.Cut(n.nebd, "/")
	return "cbd:" + pool + "/" + rest
}

// lockName is the name of the file that libnebd locks.
func lockName(nebd string) string { return strings.ReplaceAll(nebd, "/", "+") }

// key tells volumes apart: by nebd-server, cluster and path. The pool's text is no part of it, nor is the owner, who says only what may be done.
func key(u *backstore.URI) string {
	n, err := parseName(u.Path)
	if err != nil {
		return "cbd\x00" + u.Path
	}
	socket, ok := u.Peek("socket")
	if !ok {
		socket = defaultSocket
	}
	return "cbd\x00" + filepath.Clean(socket) + "\x00" + n.conf + "\x00" + n.path
}
