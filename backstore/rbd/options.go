package rbd

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/lunar-iscsi/lunar/backstore"
)

// Limits and defaults.
const (
	defaultPool     = "rbd" // of a name without one, as with Ceph's own rbd command and tgt's
	defaultInFlight = 256
	maxInFlight     = 4096 // the option inflight
	defaultOpenTime = 30 * time.Second
	maxOpenTime     = time.Hour // the option open_timeout
	maxName         = 96        // bytes of a pool's, namespace's, image's or snapshot's name (librbd: RBD_MAX_IMAGE_NAME_SIZE)
)

const driverHelp = "rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT] — an image of Ceph; conf=PATH id=NAME keyring=PATH cluster=NAME lock=exclusive|wait|none " +
	"cache=off|writethrough|writearound|writeback inflight=256 open_timeout=30s readonly shared"

// optionNames returns the options of a URI.
func optionNames() []string {
	return []string{"conf", "id", "keyring", "cluster", "lock", "cache", "inflight", "open_timeout", "readonly", "shared"}
}

// A spec is a volume's name.
type spec struct {
	pool, namespace, image, snap string
}

func (s spec) String() string {
	t := s.pool
	if s.namespace != "" {
		t += "/" + s.namespace
	}
	if s.image != "" {
		t += "/" + s.image
	}
	if s.snap != "" {
		t += "@" + s.snap
	}
	return t
}

// A lockMode says who else may have the image open.
type lockMode uint8

const (
	lockExclusive lockMode = iota // nobody, or opening fails
	lockWait                      // nobody; opening waits for that
	lockNone                      // anybody
)

// A config is what a URI says.
type config struct {
	spec
	conf, id, keyring, cluster string
	lock                       lockMode
	cache                      string // librbd's policy; empty: no cache
	readOnly                   bool
	inFlight                   int
	openTime                   time.Duration // the most that opening waits for the cluster
	query                      string        // the options that say which cluster: for URIs of its other volumes
}

func badURI(format string, a ...any) error {
	return &backstore.Error{Class: backstore.ClassUnsupported, Op: "open", Cause: fmt.Errorf(format, a...)}
}

// parseImage reads a URI that names an image.
func parseImage(u *backstore.URI, o backstore.Options) (*config, error) {
	c, err := parse(u, o)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(u.Path, "/")
	switch len(parts) {
	case 1:
		c.pool, c.image = defaultPool, parts[0]
	case 2:
		c.pool, c.image = parts[0], parts[1]
	case 3:
		c.pool, c.namespace, c.image = parts[0], parts[1], parts[2]
	default:
		return nil, badURI("%s: want rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT]", u.Shown())
	}
	var at bool
	if c.image, c.snap, at = strings.Cut(c.image, "@"); at && c.snap == "" {
		return nil, badURI("%s: the snapshot's name is missing behind the @", u.Shown())
	}
	c.readOnly = c.readOnly || c.snap != ""
	for _, p := range []struct{ what, name string }{{"pool", c.pool}, {"image", c.image}} {
		if p.name == "" {
			return nil, badURI("%s: the %s's name is missing: want rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT]", u.Shown(), p.what)
		}
	}
	if len(parts) == 3 && c.namespace == "" {
		return nil, badURI("%s: the namespace's name is missing: want rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT]", u.Shown())
	}
	return c, c.checkNames(u)
}

// parsePlace reads a URI that names where volumes are: a pool, or a namespace of it.
func parsePlace(u *backstore.URI) (*config, error) {
	c, err := parse(u, backstore.Options{})
	if err != nil {
		return nil, err
	}
	var ns bool
	if c.pool, c.namespace, ns = strings.Cut(strings.TrimSuffix(u.Path, "/"), "/"); c.pool == "" || ns && c.namespace == "" || strings.ContainsAny(c.namespace, "/@") {
		return nil, badURI("%s: want rbd:POOL or rbd:POOL/NAMESPACE", u.Shown())
	}
	return c, c.checkNames(u)
}

func (c *config) checkNames(u *backstore.URI) error {
	for _, p := range []struct{ what, name string }{{"pool", c.pool}, {"namespace", c.namespace}, {"image", c.image}, {"snapshot", c.snap}} {
		if len(p.name) > maxName {
			return badURI("%s: the %s's name is longer than %d bytes", u.Shown(), p.what, maxName)
		}
		if strings.ContainsAny(p.name, "@\x00") {
			return badURI("%s: the %s's name has a character that Ceph has other uses for", u.Shown(), p.what)
		}
	}
	return nil
}

// parse reads the options.
func parse(u *backstore.URI, o backstore.Options) (*config, error) {
	if u.Host != "" {
		return nil, badURI("%s: Ceph's monitors are named in its configuration file (conf=): write rbd:POOL/IMAGE", u.Shown())
	}
	c := &config{inFlight: defaultInFlight, openTime: defaultOpenTime}
	q := url.Values{}
	for _, s := range []struct {
		name string
		p    *string
	}{{"conf", &c.conf}, {"id", &c.id}, {"keyring", &c.keyring}, {"cluster", &c.cluster}} {
		if v, ok := u.Option(s.name); ok {
			if v == "" {
				return nil, badURI("%s: option %s is empty", u.Shown(), s.name)
			}
			*s.p = v
			q.Set(s.name, v)
		}
	}
	// In a query of ours a plus sign is a plus sign.
	c.query = strings.ReplaceAll(q.Encode(), "+", "%20")
	c.id = strings.TrimPrefix(c.id, "client.")
	if c.id == "" {
		c.id = "admin"
	}
	if c.cluster == "" {
		c.cluster = "ceph"
	}
	var err error
	if c.readOnly, err = u.Bool("readonly", false); err != nil {
		return nil, badURI("%s: %v", u.Shown(), err)
	}
	c.readOnly = c.readOnly || o.ReadOnly
	shared, err := u.Bool("shared", false)
	if err != nil {
		return nil, badURI("%s: %v", u.Shown(), err)
	}
	lock, hasLock := u.Option("lock")
	switch lock {
	case "", "exclusive":
	case "wait":
		c.lock = lockWait
	case "none":
		c.lock = lockNone
	default:
		return nil, badURI("%s: option lock=%s: want exclusive, wait or none", u.Shown(), lock)
	}
	if shared {
		if hasLock && c.lock != lockNone {
			return nil, badURI("%s: option shared lets others write the image, and lock=%s keeps them out", u.Shown(), lock)
		}
		c.lock = lockNone
	}
	switch v, _ := u.Option("cache"); v {
	case "", "off":
	case "writethrough", "writearound", "writeback":
		c.cache = v
	default:
		return nil, badURI("%s: option cache=%s: want off, writethrough, writearound or writeback", u.Shown(), v)
	}
	if c.cache != "" && c.lock == lockNone && !c.readOnly {
		return nil, badURI("%s: cache=%s would hide what others write: it wants the lock", u.Shown(), c.cache)
	}
	if v, ok := u.Option("inflight"); ok {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxInFlight {
			return nil, badURI("%s: option inflight=%s: want 1 to %d", u.Shown(), v, maxInFlight)
		}
		c.inFlight = n
	}
	if v, ok := u.Option("open_timeout"); ok {
		d, err := time.ParseDuration(v)
		if secs, e := strconv.Atoi(v); e == nil {
			d, err = time.Duration(secs)*time.Second, nil
		}
		if err != nil || d < time.Second || d > maxOpenTime {
			return nil, badURI("%s: option open_timeout=%s: want 1s to %v", u.Shown(), v, maxOpenTime)
		}
		c.openTime = d
	}
	return c, nil
}

// uri names another volume of the same cluster.
func (c *config) uri(s spec) string {
	t := "rbd:" + (&url.URL{Path: s.String()}).EscapedPath()
	if c.query != "" {
		t += "?" + c.query
	}
	return t
}

// key tells volumes apart. One cluster that is named by two configuration files is two to it; the volume's Identity then tells.
func key(u *backstore.URI) string {
	c, err := parseImage(u, backstore.Options{})
	if err != nil {
		return "rbd\x00" + u.Path
	}
	return strings.Join([]string{"rbd", c.cluster, c.conf, c.pool, c.namespace, c.image, c.snap}, "\x00")
}
