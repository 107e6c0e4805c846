package tgtvolume

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// ErrUnknown is wrapped where tgt has no such parameter of a LUN.
var ErrUnknown = errors.New("no such parameter")

// Update sets one parameter of a LUN, as tgt's --params does: texts that are too long are cut, numbers are read up to what is no digit.
func Update(l *spec.LUN, key, value string) error {
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
		return setPath(l, value)
	}
	if s != nil {
		*s = value[:min(len(value), most)]
		return nil
	}
	n := atoi(value)
	on := n != 0
	switch key {
	case "readonly":
		l.ReadOnly = on
	case "removable":
		l.Removable = on
	case "online":
		l.Offline = !on
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
	case "lbppbe":
		if n < 0 || n > 11 {
			return fmt.Errorf("lbppbe=%s: want 0 to 11, as the power of two of logical blocks in a physical one", value)
		}
		l.PhysicalBlock = cmp.Or(l.BlockSize, 512) << n
	default:
		return fmt.Errorf("%s: %w of a LUN", key, ErrUnknown)
	}
	return nil
}

// modePage keeps a page as it was given, one for each page and subpage.
func modePage(l *spec.LUN, value string) error {
	page, sub, err := pageOf(value)
	if err != nil {
		return err
	}
	// A slice of its own: the LUN that l is a copy of keeps what it has.
	l.ModePages = slices.DeleteFunc(slices.Clone(l.ModePages), func(have string) bool {
		p, s, err := pageOf(have)
		return err == nil && p == page && s == sub
	})
	l.ModePages = append(l.ModePages, value)
	return nil
}

func pageOf(value string) (page, sub uint64, err error) {
	fields := strings.Split(value, ":")
	if len(fields) < 3 {
		return 0, 0, fmt.Errorf("mode_page=%s: want PAGE:SUBPAGE:LENGTH:BYTE:…", value)
	}
	var n [3]uint64
	for i := range fields {
		x, err := strconv.ParseUint(strings.TrimSpace(fields[i]), 0, 16)
		if err != nil || i != 2 && x > 255 {
			return 0, 0, fmt.Errorf("mode_page=%s: %q is no byte", value, fields[i])
		}
		if i < 3 {
			n[i] = x
		}
	}
	if n[2] < uint64(len(fields)-3) {
		return 0, 0, fmt.Errorf("mode_page=%s: %d bytes, and a length of %d", value, len(fields)-3, n[2])
	}
	return n[0], n[1], nil
}

// setPath gives a LUN that is offline another volume of the same kind of store.
func setPath(l *spec.LUN, path string) error {
	if !l.Offline {
		return errors.New("path: the LUN is online; set online=0 first")
	}
	s := spec.TgtStore{Type: DefaultType}
	if l.Tgt != nil {
		s = *l.Tgt
	}
	s.Path = path
	uri, err := URI(s)
	if err != nil {
		return err
	}
	l.Volume, l.Tgt = uri, &s
	return nil
}

// atoi reads a number as C's atoi does: what is none is 0.
func atoi(s string) int {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	end := 0
	if s != "" && (s[0] == '-' || s[0] == '+') {
		end = 1
	}
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	n, err := strconv.ParseInt(s[:end], 10, 32)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0
	}
	return int(n)
}
