package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// What NBD knows of volumes besides serving them: which exports a server has, where it tells, and how large they are.

// volumes is what the drivers can do with volumes.
func volumes() *backstore.Volumes { return &backstore.Volumes{List: list, Stat: stat} }

// ask runs a handshake up to the options, lets f ask, and says good-bye.
func ask(ctx context.Context, u *backstore.URI, f func(rw io.ReadWriter, c *config) error) error {
	c, err := parse(u, backstore.Options{})
	if err != nil {
		return err
	}
	nc, err := connect(ctx, c, connectTime, func(nc net.Conn) error {
		if err := greet(nc); err != nil {
			return err
		}
		var rw io.ReadWriter = nc
		if c.tls {
			tc, err := startTLS(nc, c)
			if err != nil {
				return err
			}
			rw = talker{tc}
		}
		if err := f(rw, c); err != nil {
			return err
		}
		_, _, _ = option(rw, optAbort, nil, nil) // a courtesy; some servers just hang up
		return nil
	})
	if err != nil {
		var be *backstore.Error
		if errors.As(err, &be) && be.Op == "open" {
			be.Op = "volume"
		}
		return err
	}
	_ = nc.SetDeadline(time.Unix(1, 0)) // nothing more is said
	_ = nc.Close()
	return nil
}

// list asks for the exports (NBD_OPT_LIST) and, of each, for its size. One whose size the server does not tell has none here.
func list(ctx context.Context, u *backstore.URI) ([]backstore.Volume, error) {
	var vs []backstore.Volume
	var names []string
	err := ask(ctx, u, func(rw io.ReadWriter, c *config) error {
		rep, text, err := optionOf(rw, optList, nil, maxExports+1, func(rep uint32, body []byte) error {
			if rep != repServer || len(body) < 4 || binary.BigEndian.Uint32(body) > uint32(len(body)-4) {
				return fmt.Errorf("an answer of type %d with %d bytes to the question for exports", rep, len(body))
			}
			name := string(body[4 : 4+binary.BigEndian.Uint32(body)])
			if len(name) > maxExportName {
				return fmt.Errorf("an export whose name has %d bytes", len(name))
			}
			if strings.IndexByte(name, 0) < 0 { // which no name has, and no URI can say
				vs = append(vs, backstore.Volume{URI: c.uri(u, name), Name: printable([]byte(name)), Used: -1})
				names = append(names, name)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if rep != repAck {
			return noList(rep, text)
		}
		for i, name := range names {
			ex := &export{}
			if err := ex.ask(rw, optInfo, name); err == nil {
				vs[i].Size = ex.info(c).Size
			} else if backstore.ClassOf(err) == backstore.ClassInternal {
				return err // not a refusal: the connection is of no use any more
			}
		}
		return nil
	})
	return vs, err
}

// noList says in words why the server does not list.
func noList(rep uint32, text string) error {
	class, why := backstore.ClassUnsupported, fmt.Sprintf("the server does not list its exports (reply %#x)", rep)
	switch rep {
	case errTLS:
		why = "the server demands TLS: name it with nbds: or nbds+unix:"
	case errShut:
		class, why = backstore.ClassOffline, "the server is shutting down"
	}
	if text != "" {
		why += " (it says: " + text + ")"
	}
	return &backstore.Error{Class: class, Op: "volume", Cause: errors.New(why)}
}

// stat asks for one export's size (NBD_OPT_INFO).
func stat(ctx context.Context, u *backstore.URI) (v backstore.Volume, err error) {
	err = ask(ctx, u, func(rw io.ReadWriter, c *config) error {
		ex := &export{}
		if err := ex.ask(rw, optInfo, c.export); err != nil {
			return err
		}
		v = backstore.Volume{URI: u.String(), Name: printable([]byte(c.export)), Size: ex.info(c).Size, Used: -1}
		return nil
	})
	return v, err
}

// uri names another export of the server that u names, with u's options.
func (c *config) uri(u *backstore.URI, name string) string {
	volume, options, has := strings.Cut(u.String(), "?")
	scheme, rest, _ := strings.Cut(volume, "://")
	host, _, _ := strings.Cut(rest, "/")
	s := scheme + "://" + host + "/" + (&url.URL{Path: "/" + name}).EscapedPath()[1:]
	if has {
		s += "?" + options
	}
	return s
}
