package mds

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
)

// Layout says how a new volume is laid out; the zero value leaves it to the cluster.
type Layout struct {
	StripeUnit  uint64 // bytes
	StripeCount uint64
	Poolset     string
}

// do has a method carried out and returns the messages of its answer.
func (c *Client) do(ctx context.Context, method, path string, m message, again bool) ([][]byte, error) {
	b, err := c.call(ctx, method, m, again)
	if err != nil {
		return nil, err
	}
	r, err := parseReply(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	if r.status != int64(OK) {
		return nil, &Error{Status: Status(r.status), Method: method, Path: path}
	}
	return r.entries, nil
}

// Create makes a volume of size bytes. Its directory exists.
func (c *Client) Create(ctx context.Context, path, owner string, size int64, l Layout) error {
	var m message
	m.str(1, path)
	if err := c.who(&m, owner, 2, 5, 6); err != nil {
		return err
	}
	m.num(3, 1) // INODE_PAGEFILE
	m.num(4, uint64(size))
	if l.StripeUnit != 0 || l.StripeCount != 0 {
		m.num(7, l.StripeUnit)
		m.num(8, l.StripeCount)
	}
	if l.Poolset != "" {
		m.str(9, l.Poolset)
	}
	_, err := c.do(ctx, "CreateFile", path, m, false)
	return err
}

// Delete moves a volume to the recycle bin or, if it is there and force is set, deletes it. id, if not 0, is the one that it must have.
func (c *Client) Delete(ctx context.Context, path, owner string, id uint64, force bool) error {
	var m message
	m.str(1, path)
	if err := c.who(&m, owner, 2, 3, 4); err != nil {
		return err
	}
	if id != 0 {
		m.num(5, id)
	}
	if force {
		m.num(6, 1)
	}
	_, err := c.do(ctx, "DeleteFile", path, m, false)
	return err
}

// Extend makes a volume larger; to its own size is no change.
func (c *Client) Extend(ctx context.Context, path, owner string, size int64) error {
	var m message
	m.str(1, path)
	if err := c.who(&m, owner, 2, 4, 5); err != nil {
		return err
	}
	m.num(3, uint64(size))
	_, err := c.do(ctx, "ExtendFile", path, m, true)
	return err
}

// Info asks for one volume or directory.
func (c *Client) Info(ctx context.Context, path, owner string) (Info, error) {
	var m message
	m.str(1, path)
	if err := c.who(&m, owner, 2, 3, 4); err != nil {
		return Info{}, err
	}
	list, err := c.do(ctx, "GetFileInfo", path, m, true)
	if err != nil {
		return Info{}, err
	}
	if len(list) != 1 {
		return Info{}, fmt.Errorf("GetFileInfo of %s: %w", path, errAnswer)
	}
	i, err := parseInfo(list[0])
	if err != nil {
		err = fmt.Errorf("GetFileInfo of %s: %w", path, err)
	}
	return i, err
}

// List lists a directory.
func (c *Client) List(ctx context.Context, path, owner string) ([]Info, error) {
	var m message
	m.str(1, path)
	if err := c.who(&m, owner, 2, 3, 4); err != nil {
		return nil, err
	}
	list, err := c.do(ctx, "ListDir", path, m, true)
	if err != nil {
		return nil, err
	}
	out := make([]Info, 0, len(list))
	for _, b := range list {
		i, err := parseInfo(b)
		if err != nil {
			return nil, fmt.Errorf("ListDir of %s: %w", path, err)
		}
		out = append(out, i)
	}
	return out, nil
}

// Rename gives a volume another path.
func (c *Client) Rename(ctx context.Context, from, to, owner string) error {
	var m message
	m.str(1, from)
	m.str(2, to)
	if err := c.who(&m, owner, 3, 4, 7); err != nil {
		return err
	}
	_, err := c.do(ctx, "RenameFile", from, m, false)
	return err
}

// Recover brings the deleted volume of an id back to path, where it was.
func (c *Client) Recover(ctx context.Context, path, owner string, id uint64) error {
	var m message
	m.str(1, path)
	if err := c.who(&m, owner, 2, 3, 4); err != nil {
		return err
	}
	m.num(5, id)
	_, err := c.do(ctx, "RecoverFile", path, m, false)
	return err
}

// MountPoints lists the clients that have a volume open, as host:port. That of a client that has just opened it may be missing for a second or two.
func (c *Client) MountPoints(ctx context.Context, path string) ([]string, error) {
	var m message
	m.str(1, path)
	list, err := c.do(ctx, "FindFileMountPoint", path, m, true)
	if StatusOf(err) == NotExist {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, b := range list {
		var host string
		var port uint64
		err := brpc.Fields(b, func(f brpc.Field) error {
			switch {
			case f.Number == 1 && f.Type == protowire.BytesType:
				host = string(f.Bytes)
			case f.Number == 2 && f.Type == protowire.VarintType:
				port = f.Value
			case f.Number <= 2:
				return errAnswer
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("FindFileMountPoint of %s: %w", path, err)
		}
		out = append(out, net.JoinHostPort(host, strconv.FormatUint(port, 10)))
	}
	return out, nil
}
