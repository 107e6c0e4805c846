package curve

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
	"github.com/lunar-iscsi/lunar/backstore/curve/mds"
	"github.com/lunar-iscsi/lunar/test/nebd"
)

const (
	gib       = int64(1) << 30
	minSize   = 10 * gib
	maxSize   = 20 << 40
	chunk     = 16 << 20
	recycle   = "/RecycleBin"
	clockSkew = 5 * time.Minute
)

// meta is a volume's .json: nebd's fields, and ours.
type meta struct {
	nebd.Volume
	ID       uint64         `json:"id"`
	Created  int64          `json:"ctime"` // µs
	Status   mds.FileStatus `json:"status,omitempty"`
	Source   string         `json:"source,omitempty"`
	Original string         `json:"original,omitempty"`
	Unit     uint64         `json:"stripeunit,omitempty"`
	Count    uint64         `json:"stripecount,omitempty"`
}

// A failure is a status of the MDS.
type failure mds.Status

func (f failure) Error() string { return mds.Status(f).String() }

func statusOf(err error) mds.Status {
	var f failure
	switch {
	case err == nil:
		return mds.OK
	case errors.As(err, &f):
		return mds.Status(f)
	case errors.Is(err, os.ErrNotExist):
		return mds.NotExist
	case errors.Is(err, os.ErrExist):
		return mds.Exists
	}
	return mds.StorageError
}

// A request is the fields of a call by number; they are the same kind in every message.
type request struct {
	text map[protowire.Number]string
	num  map[protowire.Number]uint64
}

func parseRequest(b []byte) (request, error) {
	r := request{map[protowire.Number]string{}, map[protowire.Number]uint64{}}
	err := brpc.Fields(b, func(f brpc.Field) error {
		switch f.Type {
		case protowire.BytesType:
			r.text[f.Number] = string(f.Bytes)
		case protowire.VarintType:
			r.num[f.Number] = f.Value
		}
		return nil
	})
	return r, err
}

// handle answers one call of the MDS.
func (c *Cluster) handle(call *brpc.Call) {
	if call.Service != mds.Service {
		call.Fail(brpc.ENoMethod, "no such service "+call.Service)
		return
	}
	r, err := parseRequest(call.Message)
	if err != nil {
		call.Fail(brpc.ERequest, err.Error())
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var entries [][]byte
	switch call.Method {
	case "CreateFile":
		err = c.auth(r, 2, 5, 6, func() error { return c.createFile(r) })
	case "DeleteFile":
		err = c.auth(r, 2, 3, 4, func() error { return c.deleteFile(r) })
	case "ExtendFile":
		err = c.auth(r, 2, 4, 5, func() error { return c.extendFile(r) })
	case "GetFileInfo":
		err = c.auth(r, 2, 3, 4, func() (err error) { entries, err = c.fileInfo(r); return })
	case "ListDir":
		err = c.auth(r, 2, 3, 4, func() (err error) { entries, err = c.listDir(r); return })
	case "RenameFile":
		err = c.auth(r, 3, 4, 7, func() error { return c.renameFile(r) })
	case "RecoverFile":
		err = c.auth(r, 2, 3, 4, func() error { return c.recoverFile(r) })
	case "FindFileMountPoint":
		entries, err = c.mountPoints(r)
	default:
		call.Fail(brpc.ENoMethod, "Fail to find method="+call.Method)
		return
	}
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(statusOf(err)))
	for _, e := range entries {
		b = protowire.AppendBytes(protowire.AppendTag(b, 2, protowire.BytesType), e)
	}
	call.Reply(b, nil)
}

// auth checks who asks: anybody is who he says, but root signs.
func (c *Cluster) auth(r request, owner, signature, date protowire.Number, then func() error) error {
	at := time.UnixMicro(int64(r.num[date]))
	if d := time.Since(at); d > clockSkew || d < -clockSkew {
		return failure(mds.OwnerAuthFail)
	}
	if o := r.text[owner]; o == mds.Root && r.text[signature] != mds.Sign(c.cfg.Password, o, r.num[date]) || o == "" {
		return failure(mds.OwnerAuthFail)
	}
	return then()
}

// load reads what is known of a volume.
func (c *Cluster) load(volume string) (m meta, err error) {
	v, err := c.cfg.Pool.Stat(volume)
	if err != nil {
		return m, err
	}
	name, err := c.cfg.Pool.Meta(volume)
	if err != nil {
		return m, err
	}
	text, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(text, &m)
	} else if os.IsNotExist(err) {
		err = nil
	}
	m.Volume = v
	if m.ID == 0 { // made by nebd.Pool.Create
		m.ID, m.Created = c.newID(), time.Now().UnixMicro()
		err = errors.Join(err, c.save(volume, m))
	}
	return m, err
}

func (c *Cluster) save(volume string, m meta) error {
	name, err := c.cfg.Pool.Meta(volume)
	if err != nil {
		return err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o644)
}

func (c *Cluster) newID() uint64 {
	c.lastID++
	return c.lastID
}

// owned loads a volume for a caller that has a right to it.
func (c *Cluster) owned(volume, owner string) (meta, error) {
	m, err := c.load(volume)
	if err == nil && owner != mds.Root && m.Owner != "" && m.Owner != owner {
		err = failure(mds.OwnerAuthFail)
	}
	return m, err
}

func (c *Cluster) isDir(p string) bool {
	fi, err := os.Stat(filepath.Join(c.cfg.Pool.Dir(), filepath.FromSlash(p)))
	return err == nil && fi.IsDir() && !strings.Contains(p, "/.")
}

func (c *Cluster) createFile(r request) error {
	name, size := r.text[1], int64(r.num[4])
	if _, err := c.cfg.Pool.Data(name); err != nil || r.num[3] != 1 || strings.HasPrefix(name, recycle+"/") {
		return failure(mds.ParaError)
	}
	if size < minSize || size > maxSize || size%gib != 0 {
		return failure(mds.Length)
	}
	unit, count := r.num[7], r.num[8]
	if (unit != 0) != (count != 0) || count != 0 && (chunk%count != 0 || count > 64 || unit > chunk || chunk%unit != 0 || unit%4096 != 0 || count == 1 && unit != chunk) {
		return failure(mds.ParaError)
	}
	if p := r.text[9]; p != "" && p != "default" {
		return failure(mds.NoPoolset)
	}
	if c.isDir(name) {
		return failure(mds.Exists)
	}
	if !c.isDir(path.Dir(name)) {
		return failure(mds.NotExist)
	}
	if _, err := c.cfg.Pool.Stat(name); err == nil {
		return failure(mds.Exists)
	}
	if err := c.cfg.Pool.Create(name, nebd.Volume{Owner: r.text[2], Size: size, Block: nebd.DefaultBlock}); err != nil {
		return err
	}
	m, err := c.load(name)
	if err != nil {
		return err
	}
	m.Unit, m.Count = unit, count
	return c.save(name, m)
}

func (c *Cluster) deleteFile(r request) error {
	name := r.text[1]
	m, err := c.owned(name, r.text[2])
	if err != nil {
		return err
	}
	if id := r.num[5]; id != 0 && id != m.ID {
		return failure(mds.IDNotMatch)
	}
	if busy, err := c.cfg.Pool.InUse(name); err != nil || busy {
		return errors.Join(err, failure(mds.Occupied))
	}
	if c.snapping(name) {
		return failure(mds.UnderSnapshot)
	}
	if c.cloned(name) {
		return failure(mds.BeingCloned)
	}
	if strings.HasPrefix(name, recycle+"/") {
		if r.text[2] != mds.Root {
			return failure(mds.OwnerAuthFail)
		}
		if r.num[6] == 0 {
			return failure(mds.NotSupported)
		}
		return c.destroy(name)
	}
	if r.num[6] != 0 {
		return failure(mds.NotSupported)
	}
	if err := os.MkdirAll(filepath.Join(c.cfg.Pool.Dir(), recycle), 0o755); err != nil {
		return err
	}
	m.Original = name
	return c.move(name, fmt.Sprintf("%s/%s-%d-%d", recycle, path.Base(name), m.ID, time.Now().Unix()), m)
}

func (c *Cluster) destroy(name string) error {
	data, err := c.cfg.Pool.Data(name)
	if err != nil {
		return err
	}
	about, err := c.cfg.Pool.Meta(name)
	if err != nil {
		return err
	}
	err = os.Remove(about)
	if os.IsNotExist(err) {
		err = nil
	}
	return errors.Join(err, os.Remove(data))
}

// move gives a volume another path.
func (c *Cluster) move(from, to string, m meta) error {
	source, err := c.cfg.Pool.Data(from)
	if err != nil {
		return err
	}
	target, err := c.cfg.Pool.Data(to)
	if err != nil {
		return failure(mds.ParaError)
	}
	if err := c.save(to, m); err != nil {
		return err
	}
	if err := os.Rename(source, target); err != nil {
		return err
	}
	about, err := c.cfg.Pool.Meta(from)
	if err != nil {
		return err
	}
	return os.Remove(about)
}

func (c *Cluster) extendFile(r request) error {
	name, size := r.text[1], int64(r.num[3])
	m, err := c.owned(name, r.text[2])
	switch {
	case err != nil:
		return err
	case size == m.Size:
		return nil
	case size < m.Size:
		return failure(mds.Shrink)
	case (size-m.Size)%gib != 0:
		return failure(mds.ExtendUnit)
	case size > maxSize:
		return failure(mds.Length)
	case c.snapping(name):
		return failure(mds.UnderSnapshot)
	}
	return c.cfg.Pool.Extend(name, size)
}

func (c *Cluster) fileInfo(r request) ([][]byte, error) {
	name := r.text[1]
	if c.isDir(name) {
		return [][]byte{dirInfo(name)}, nil
	}
	m, err := c.owned(name, r.text[2])
	if err != nil {
		return nil, err
	}
	return [][]byte{m.info(name)}, nil
}

func text(b []byte, num protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func number(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func dirInfo(name string) []byte {
	return text(number(text(nil, 2, path.Base(name)), 4, 0), 5, mds.Root)
}

func (m meta) info(name string) []byte {
	b := number(nil, 1, m.ID)
	b = text(b, 2, path.Base(name))
	b = number(b, 4, 1)
	b = text(b, 5, m.Owner)
	b = number(number(b, 6, chunk), 7, uint64(gib))
	b = number(number(b, 8, uint64(m.Size)), 9, uint64(m.Created))
	b = number(b, 11, uint64(m.Status))
	if m.Original != "" {
		b = text(b, 12, m.Original)
	}
	if m.Source != "" {
		b = text(b, 13, m.Source)
	}
	return number(b, 20, uint64(m.Block))
}

func (c *Cluster) listDir(r request) ([][]byte, error) {
	dir := r.text[1]
	if !c.isDir(dir) {
		if _, err := c.cfg.Pool.Stat(dir); err == nil {
			return nil, failure(mds.NotDirectory)
		}
		return nil, failure(mds.NotExist)
	}
	if r.text[2] != mds.Root { // directories are root's
		return nil, failure(mds.OwnerAuthFail)
	}
	list, err := os.ReadDir(filepath.Join(c.cfg.Pool.Dir(), filepath.FromSlash(dir)))
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for _, e := range list {
		name := path.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case e.IsDir():
			out = append(out, dirInfo(name))
		default:
			m, err := c.load(name)
			if err != nil {
				return nil, err
			}
			out = append(out, m.info(name))
		}
	}
	return out, nil
}

func (c *Cluster) renameFile(r request) error {
	from, to := r.text[1], r.text[2]
	m, err := c.owned(from, r.text[3])
	if err != nil {
		return err
	}
	if busy, err := c.cfg.Pool.InUse(from); err != nil || busy {
		return errors.Join(err, failure(mds.Occupied))
	}
	if _, err := c.cfg.Pool.Stat(to); err == nil {
		return failure(mds.Exists)
	}
	if !c.isDir(path.Dir(to)) {
		return failure(mds.NotExist)
	}
	return c.move(from, to, m)
}

// recoverFile brings the youngest deleted volume of a path, or the one of an id, back.
func (c *Cluster) recoverFile(r request) error {
	name := r.text[1]
	list, err := os.ReadDir(filepath.Join(c.cfg.Pool.Dir(), recycle))
	if err != nil {
		return err
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name() > list[j].Name() })
	for _, e := range list {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		from := recycle + "/" + e.Name()
		m, err := c.load(from)
		if err != nil {
			return err
		}
		if m.Original != name || r.num[5] != 0 && r.num[5] != m.ID {
			continue
		}
		if m, err = c.owned(from, r.text[2]); err != nil {
			return err
		}
		if _, err := c.cfg.Pool.Stat(name); err == nil {
			return failure(mds.Exists)
		}
		m.Original = ""
		return c.move(from, name, m)
	}
	return failure(mds.NotExist)
}

func (c *Cluster) mountPoints(r request) ([][]byte, error) {
	busy, err := c.cfg.Pool.InUse(r.text[1])
	if err != nil {
		return nil, err
	}
	if !busy {
		return nil, failure(mds.NotExist)
	}
	return [][]byte{number(text(nil, 1, "127.0.0.1"), 2, 9000)}, nil
}
