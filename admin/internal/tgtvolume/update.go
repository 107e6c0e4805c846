package tgtvolume

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// ErrUnknown is wrapped where tgt has no such parameter of a LUN.
var ErrUnknown = errors.New("no such parameter")

// Update sets one parameter of a LUN, as tgt's --params does: texts that are too long are cut, numbers are read up to what is no digit.
// Flags are atoi's: "Yes" is 0. known is as of URI.
func Update(l *spec.LUN, key, value string, known func(scheme string) bool) error {
	var s *string
	most := 0
	switch key {
	case "scsi_id":
		s, most = &l.SCSIID, spec.MaxSerial
	case "scsi_sn":
		s, most = &l.Serial, spec.MaxSerial
	case "vendor_id":
		s, most = &l.Vendor, spec.MaxVendor
	case "product_id":
		s, most = &l.Product, spec.MaxProduct
	case "product_rev":
		s, most = &l.Revision, spec.MaxRevision
	case "mode_page":
		return modePage(l, value)
	case "path":
		return setPath(l, value, known)
	}
	if s != nil {
		*s = value[:min(len(value), most)]
		return nil
	}
	n := int(min(max(Decimal(value), 0), math.MaxInt32))
	on := Decimal(value) != 0
	switch key {
	case "readonly":
		l.ReadOnly = on
	case "removable":
		l.Removable = on
	case "online":
		// Without a medium there is nothing to bring online; tgtd takes no notice.
		l.Offline = !on || l.Volume == ""
	case "sense_format":
		l.DescriptorSense = on
	case "thin_provisioning":
		l.Thin = &on
	case "rotation_rate":
		l.RotationRate = n
	case "la_lba":
		l.LowestAligned = n
	case "optimal_xfer_gran":
		l.OptimalGranularity = n
	case "optimal_xfer_len":
		l.OptimalLength = n
	case "lbppbe": // an exponent: logical blocks in a physical one
		l.PhysicalBlock = max(l.BlockSize, 512) << min(n, maxExponent)
	default:
		return fmt.Errorf("%s: %w of a LUN", key, ErrUnknown)
	}
	return nil
}

// maxExponent is the largest that READ CAPACITY(16) has room for (SBC-3 §5.16.2).
const maxExponent = 15

// modePage reads PAGE:SUBPAGE:LENGTH:BYTE:…, where bytes may be missing. What lunar has of the pages takes effect; each page is kept
// once, whole.
func modePage(l *spec.LUN, value string) error {
	p := readPage(value)
	switch {
	case p.page > maxPage || p.sub > maxSubpage || p.length > math.MaxUint8:
		return fmt.Errorf("mode page %q: pages are 0 to %d, subpages 0 to %d, lengths 0 to 255", value, maxPage, maxSubpage)
	case int64(len(p.data)) > p.length:
		return fmt.Errorf("mode page %02Xh: %d bytes are given and its length is %d", p.page, len(p.data), p.length)
	}
	p.data = append(p.data, make([]int64, p.length-int64(len(p.data)))...) // what is not given is 0
	// A slice of its own: the LUN that l is a copy of keeps what it has.
	pages := make([]string, 0, len(l.ModePages)+1)
	for _, have := range l.ModePages {
		if h := readPage(have); h.page != p.page || h.sub != p.sub {
			pages = append(pages, have)
		}
	}
	l.ModePages = append(pages, p.text())
	if len(p.data) == 0 || p.sub != 0 {
		return nil
	}
	switch p.page {
	case 0x08: // caching: WCE (SBC-3 §6.5.5)
		wce := p.data[0]&0x04 != 0
		l.WriteCache = &wce
	case 0x0a: // control: D_SENSE (SPC-4 §7.5.8)
		l.DescriptorSense = p.data[0]&0x04 != 0
	}
	return nil
}

type page struct {
	page, sub, length int64
	data              []int64
}

// The highest that are no way to ask for all of them (SPC-4 §6.13).
const (
	maxPage    = 0x3e
	maxSubpage = 0xfe
)

// text is the page as it is kept.
func (p *page) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:%d:%d", p.page, p.sub, p.length)
	for _, d := range p.data {
		fmt.Fprintf(&b, ":%d", d&0xff)
	}
	return b.String()
}

func readPage(value string) page {
	var n []int64
	for f := range strings.SplitSeq(value, ":") {
		d, _, _ := Number(f)
		n = append(n, d)
	}
	for len(n) < 3 {
		n = append(n, 0)
	}
	return page{n[0] & 0xff, n[1] & 0xff, n[2] & 0xffff, n[3:]}
}

// setPath gives a LUN that is offline another volume of the same kind of store.
func setPath(l *spec.LUN, path string, known func(string) bool) error {
	if path == "" {
		return errors.New("path: want a file or device")
	}
	if !l.Offline {
		return errors.New("path: the LUN is online; set online=0 first")
	}
	s := spec.TgtStore{Type: DefaultType}
	if l.Tgt != nil {
		s = *l.Tgt
	}
	s.Path = path
	uri, err := URI(s, known)
	if err != nil {
		return err
	}
	l.Volume, l.Tgt = uri, &s
	return nil
}
