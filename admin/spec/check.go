package spec

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/session/login"
)

// Bounds of what a document may say.
const (
	MaxTID          = 1<<31 - 1
	MaxAccountName  = 255  // bytes; what a CHAP_N can be (RFC 7143 §6.1, text-value)
	MaxSecret       = 255  // bytes
	MaxAlias        = 255  // bytes (RFC 7143 §13.7)
	MaxVolume       = 4096 // bytes of a URI
	MaxIdentity     = 1024 // bytes
	MaxVendor       = 8    // characters (SPC-4 §6.6), as the next two
	MaxProduct      = 16
	MaxRevision     = 4
	MaxSerial       = 36
	MaxRulesTarget  = 4096 // rules of one target
	MaxMapsTarget   = 4096 // LUN maps of one target
	MaxGroupsTarget = 1024 // portal groups of one target
	MaxNop          = 1 << 20
	MaxTimeout      = 24 * 60 * 60 // seconds
)

// A FieldError says what is wrong with one field of a document.
type FieldError struct {
	Path  string // of the field in the declarative file's words: targets[0].luns[1].vendor
	Where string // the same for people: target iqn… LUN 3: vendor
	Text  string // what is wrong and what is wanted
}

func (e *FieldError) Error() string { return e.Where + ": " + e.Text }

// A place is where in a document a check is: both halves of a FieldError.
type place struct{ path, where string }

func (p place) at(path, where string) place {
	n := place{path: path, where: where}
	if p.path != "" {
		n.path = p.path + "." + path
	}
	if p.where != "" {
		n.where = p.where + ": " + where
	}
	return n
}

// field is at for a field that has one name.
func (p place) field(name string) place { return p.at(name, name) }

func (p place) errorf(format string, args ...any) error {
	return &FieldError{Path: p.path, Where: p.where, Text: fmt.Sprintf(format, args...)}
}

// Check reports the first thing that no daemon could serve, or would misunderstand, as a *FieldError: names, numbers, lengths,
// what exists twice, accounts that are not there. It asks nobody but the document.
func (d *Document) Check() error {
	if err := d.System.check(place{}.at("system", "system")); err != nil {
		return err
	}
	seen := map[netip.AddrPort]bool{}
	for i := range d.Portals {
		p := &d.Portals[i]
		at := place{}.at(fmt.Sprintf("portals[%d]", i), "portal "+p.Address)
		addr, err := p.check(at)
		if err != nil {
			return err
		}
		if addr.Port() != 0 && seen[addr] {
			return at.field("address").errorf("the address is there twice")
		}
		seen[addr] = true
	}
	accounts := map[string]bool{}
	for i := range d.Accounts {
		a := &d.Accounts[i]
		at := place{}.at(fmt.Sprintf("accounts[%d]", i), fmt.Sprintf("account %q", a.Name))
		if err := a.check(at); err != nil {
			return err
		}
		if accounts[a.Name] {
			return at.field("name").errorf("the account is there twice")
		}
		accounts[a.Name] = true
	}
	known := func(name string) bool { return accounts[name] }
	if err := d.Discovery.check(place{}.at("discovery", "discovery"), known); err != nil {
		return err
	}
	tids, names := map[int]bool{}, map[string]bool{}
	for i := range d.Targets {
		t := &d.Targets[i]
		at := t.place(i)
		if err := t.check(at, known); err != nil {
			return err
		}
		if t.TID != 0 && tids[t.TID] {
			return at.field("tid").errorf("another target has TID %d", t.TID)
		}
		norm, _, _ := NormalizeName(t.Name)
		if names[norm] {
			return at.field("name").errorf("the target is there twice")
		}
		tids[t.TID], names[norm] = true, true
	}
	return nil
}

// CheckTarget reports what is wrong with one target, as Document.Check does. known tells which accounts there are; nil: all.
func (t *Target) CheckTarget(known func(account string) bool) error {
	return t.check(t.place(0), known)
}

func (t *Target) place(i int) place {
	return place{}.at(fmt.Sprintf("targets[%d]", i), "target "+t.Name)
}

// CheckLUN reports what is wrong with one LUN of the target named.
func (l *LUN) CheckLUN(target string) error {
	return l.check(place{}.at("luns[0]", fmt.Sprintf("target %s LUN %d", target, l.Number)))
}

// CheckPortal reports what is wrong with a portal and returns its address.
func (p *Portal) CheckPortal() (netip.AddrPort, error) {
	return p.check(place{}.at("portals[0]", "portal "+p.Address))
}

// CheckAccount reports what is wrong with an account. What it says never has the secret in it.
func (a *Account) CheckAccount() error {
	return a.check(place{}.at("accounts[0]", fmt.Sprintf("account %q", a.Name)))
}

// CheckAuth reports what is wrong with what discovery authenticates with.
func (a *Auth) CheckAuth(known func(account string) bool) error {
	return a.check(place{}.at("discovery", "discovery"), known)
}

// CheckSystem reports what is wrong with the settings of the daemon.
func (s *System) CheckSystem() error { return s.check(place{}.at("system", "system")) }

// NormalizeName returns the form in which target names are compared, and whether it is an iSCSI name (RFC 7143 §4.2.7). tgt
// takes any of letters, digits, ':', '.' and '-': what it took has to be there again, so these are names, too.
func NormalizeName(name string) (norm string, iscsi bool, err error) {
	norm, err = login.NormalizeName(name)
	if err == nil {
		return norm, true, nil
	}
	if name == "" || len(name) > login.MaxNameLen {
		return "", false, err
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != ':' && c != '.' && c != '-' {
			return "", false, err
		}
	}
	return strings.ToLower(name), false, nil
}

func (s *System) check(at place) error {
	if err := checkRange(at.field("nop-interval"), s.NopInterval, 0, MaxNop); err != nil {
		return err
	}
	if err := checkRange(at.field("nop-count"), s.NopCount, 0, MaxNop); err != nil {
		return err
	}
	isns := at.field("isns")
	if err := checkRange(isns.field("port"), s.ISNS.Port, 0, 65535); err != nil {
		return err
	}
	return checkText(isns.field("server"), s.ISNS.Server, 255)
}

func (p *Portal) check(at place) (netip.AddrPort, error) {
	addr, err := netip.ParseAddrPort(p.Address)
	if err != nil {
		return addr, at.field("address").errorf("%q: want an IP address and a port, as 192.0.2.1:3260 or [2001:db8::1]:3260", p.Address)
	}
	if p.Advertise != "" {
		_, port, err := net.SplitHostPort(p.Advertise)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 {
			return addr, at.field("advertise").errorf("%q: want HOST:PORT, IPv6 in brackets", p.Advertise)
		}
	}
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), nil
}

func (a *Account) check(at place) error {
	if a.Name == "" {
		return at.field("name").errorf("empty")
	}
	if err := checkText(at.field("name"), a.Name, MaxAccountName); err != nil {
		return err
	}
	switch n := len(a.Secret); {
	case n == 0:
		return at.field("secret").errorf("empty")
	case n > MaxSecret:
		return at.field("secret").errorf("%d bytes, at most %d are allowed", n, MaxSecret)
	}
	return nil
}

func (a *Auth) check(at place, known func(string) bool) error {
	for i, name := range a.Incoming {
		in := at.at(fmt.Sprintf("incoming[%d]", i), "incoming")
		if known != nil && !known(name) {
			return in.errorf("there is no account %q", name)
		}
		if slices.Contains(a.Incoming[:i], name) {
			return in.errorf("account %q is there twice", name)
		}
	}
	if a.Outgoing != "" && known != nil && !known(a.Outgoing) {
		return at.field("outgoing").errorf("there is no account %q", a.Outgoing)
	}
	return nil
}

func (r *Redirect) check(at place) error {
	if r.Address == "" && (r.Port != 0 || r.Permanent) {
		return nil // tgt sets these one by one
	}
	if err := checkText(at.field("address"), r.Address, 255); err != nil {
		return err
	}
	if err := checkText(at.field("callback"), r.Callback, 4096); err != nil {
		return err
	}
	if strings.ContainsAny(r.Address, " ,/[") {
		return at.field("address").errorf("%q: want an IP address or a host name", r.Address)
	}
	return checkRange(at.field("port"), r.Port, 0, 65535)
}

func (l *LUN) check(at place) error {
	if l.Number > sam.MaxFlatLUN {
		return at.field("lun").errorf("%d: LUNs are 0 to %d", l.Number, sam.MaxFlatLUN)
	}
	for _, f := range []struct {
		name, value string
		most        int
	}{{"volume", l.Volume, MaxVolume}, {"identity", l.Identity, MaxIdentity}, {"vendor", l.Vendor, MaxVendor}, {"product", l.Product, MaxProduct},
		{"revision", l.Revision, MaxRevision}, {"serial", l.Serial, MaxSerial}, {"scsi-id", l.SCSIID, MaxSerial}} {
		if err := checkText(at.field(f.name), f.value, f.most); err != nil {
			return err
		}
		if i := strings.IndexFunc(f.value, func(r rune) bool { return r > 0x7e }); i >= 0 && f.most <= MaxSerial {
			return at.field(f.name).errorf("%q: want printable ASCII characters", f.value)
		}
	}
	if err := checkBlock(at.field("block-size"), l.BlockSize); err != nil {
		return err
	}
	if err := checkBlock(at.field("physical-block"), l.PhysicalBlock); err != nil {
		return err
	}
	if l.PhysicalBlock != 0 && l.PhysicalBlock < cmp.Or(l.BlockSize, 512) {
		return at.field("physical-block").errorf("%d bytes are less than a logical block", l.PhysicalBlock)
	}
	for _, f := range []struct {
		name        string
		value, most int
	}{{"rotation-rate", l.RotationRate, 65535}, {"lowest-aligned", l.LowestAligned, 1<<14 - 1}, {"optimal-granularity", l.OptimalGranularity, 65535}, {"optimal-length", l.OptimalLength, 1<<31 - 1}} {
		if err := checkRange(at.field(f.name), f.value, 0, f.most); err != nil {
			return err
		}
	}
	if l.Timeout != 0 {
		if err := checkRange(at.field("timeout"), l.Timeout, 1, MaxTimeout); err != nil {
			return err
		}
	}
	if err := checkWord(at.field("on-timeout"), l.OnTimeout, TimeoutWait, TimeoutError); err != nil {
		return err
	}
	if err := checkWord(at.field("away"), l.Away, AwayOffline, AwayFail); err != nil {
		return err
	}
	for i, page := range l.ModePages {
		if len(page) > MaxVolume {
			return at.at(fmt.Sprintf("mode-pages[%d]", i), "mode page").errorf("%d bytes of text", len(page))
		}
	}
	return nil
}

// checkText refuses what is too long, and what would break a line of a log or of a listing.
func checkText(at place, s string, most int) error {
	if len(s) > most {
		return at.errorf("%d characters, at most %d are allowed", len(s), most)
	}
	if strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\uFFFD' }) >= 0 {
		return at.errorf("%q: want printable characters", s)
	}
	return nil
}

func checkRange(at place, v, least, most int) error {
	if v < least || v > most {
		return at.errorf("%d: want %d to %d", v, least, most)
	}
	return nil
}

// checkWord refuses what is none of words, nor left out.
func checkWord(at place, s string, words ...string) error {
	if s != "" && !slices.Contains(words, s) {
		return at.errorf("%q: want %s", s, strings.Join(words, " or "))
	}
	return nil
}

func checkBlock(at place, n int) error {
	if n != 0 && (n < 512 || n > 1<<20 || n&(n-1) != 0) {
		return at.errorf("%d bytes: want a power of two, 512 or more", n)
	}
	return nil
}

// IsField reports whether err is about a field of a document, and which.
func IsField(err error) (*FieldError, bool) {
	var f *FieldError
	ok := errors.As(err, &f)
	return f, ok
}
