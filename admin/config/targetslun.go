package config

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lunar-iscsi/lunar/admin/internal/tgtvolume"
	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/scsi/sam"
)

// Directives of a LUN, which stand in its block, or in the target for all its LUNs.
var (
	// lunAttributes are handed on as --params KEY=VALUE, online before path.
	lunAttributes = []string{
		"scsi_id", "sense_format", "removable", "online", "path", "readonly",
		"vendor_id", "product_id", "product_rev", "scsi_sn", "lbppbe", "la_lba", "optimal_xfer_gran", "optimal_xfer_len",
	}
	lunOthers = []string{"lun", "device-type", "bs-type", "bsopts", "bsoflags", "allow-in-use", "write-cache", "mode_page", "params"}
)

func isLUNKey(key string) bool {
	return slices.Contains(lunAttributes, key) || slices.Contains(lunOthers, key)
}

// writeCacheOff is the mode page that tgt-admin sets for "write-cache off".
const writeCacheOff = "8:0:18:0x10:0:0xff:0xff:0:0:0xff:0xff:0xff:0xff:0x80:0x14:0:0:0:0:0:0"

// A confStore is one backing-store or direct-store line or block.
type confStore struct {
	path   string
	direct bool
	block  *confBlock // empty for a line
	at     confLine
}

// stores lists a target's stores in tgt-admin's order: backing stores before direct ones, each sorted by path.
func (c *confDocument) stores(b *confBlock) (out []confStore) {
	for _, kind := range [...]string{"backing-store", "direct-store"} {
		n := len(out)
		if g := b.blocks[kind]; g != nil {
			for path, block := range g.named {
				out = append(out, confStore{path, kind == "direct-store", block, block.at})
			}
		}
		seen := map[string]bool{}
		for _, v := range b.values[kind] {
			if v.check(kind) != nil {
				continue // told by target
			}
			if seen[v.text] {
				c.warn(v.at, "%s %s is there twice", kind, v.text)
				continue
			}
			seen[v.text] = true
			out = append(out, confStore{v.text, kind == "direct-store", newBlock(v.at), v.at})
		}
		slices.SortFunc(out[n:], func(a, b confStore) int { return strings.Compare(a.path, b.path) })
	}
	return out
}

// luns makes the LUNs of a target. Numbers that some block reserves are skipped by the others.
func (c *confDocument) luns(b *confBlock, t *spec.Target) {
	stores := c.stores(b)
	reserved := map[int]bool{}
	numbers := make([]int, len(stores))
	for i, s := range stores {
		if v, ok := c.one(s.block, "lun"); ok {
			if n, ok := c.lunNumber(v); ok {
				numbers[i] = n
				reserved[n] = true
			}
		}
	}
	if v, ok := c.one(b, "lun"); ok {
		if n, ok := c.lunNumber(v); ok {
			for i := range numbers {
				numbers[i] = n
			}
		}
	}
	next := 1
	for i := range stores {
		if numbers[i] == 0 {
			for reserved[next] {
				next++
			}
			numbers[i] = next
			reserved[next] = true
		}
		if slices.Contains(numbers[:i], numbers[i]) {
			c.fail(&Error{File: stores[i].at.file, Line: stores[i].at.line, Text: fmt.Sprintf("target %s: LUN %d is there already", t.Name, numbers[i])})
			continue
		}
		if numbers[i] > sam.MaxFlatLUN {
			c.fail(&Error{File: stores[i].at.file, Line: stores[i].at.line, Text: fmt.Sprintf("target %s: more than %d LUNs", t.Name, sam.MaxFlatLUN)})
			return
		}
		if l, ok := c.lun(uint16(numbers[i]), &stores[i], b, t); ok {
			t.LUNs = append(t.LUNs, l)
		}
	}
	slices.SortFunc(t.LUNs, func(a, b spec.LUN) int { return int(a.Number) - int(b.Number) })
}

func (c *confDocument) lunNumber(v confValue) (int, bool) {
	n, _, ok := tgtvolume.Number(v.text)
	if !ok || n < 1 || n > sam.MaxFlatLUN {
		c.fail(v.errorf("lun %s: want 1 to %d", v.text, sam.MaxFlatLUN))
		return 0, false
	}
	return int(n), true
}

// lun makes one LUN; false where it is left out, or is a mistake.
func (c *confDocument) lun(number uint16, s *confStore, b *confBlock, t *spec.Target) (l spec.LUN, ok bool) {
	failed := len(c.errs)
	for _, key := range slices.Sorted(maps.Keys(s.block.values)) {
		if _, err := s.block.all(key); err != nil {
			c.fail(err)
		} else if key != "block-size" && !isLUNKey(key) {
			c.warn(s.block.values[key][0].at, "tgt-admin takes no notice of %s in a store's block, and neither does lunar", key)
		}
	}
	// get is a directive of this LUN: what its block says counts before what the target says.
	get := func(key string) (confValue, bool) {
		if v, ok := c.one(s.block, key); ok || len(s.block.values[key]) > 0 {
			return v, ok
		}
		return c.one(b, key)
	}
	where := fmt.Sprintf("target %s LUN %d", t.Name, number)
	if v, ok := get("device-type"); ok && v.text != "disk" {
		c.fail(v.errorf("%s: device-type %s: lunar serves disks", where, v.text))
	}
	store := spec.TgtStore{Type: tgtvolume.DefaultType, Path: s.path}
	for key, p := range map[string]*string{"bs-type": &store.Type, "bsopts": &store.Options, "bsoflags": &store.Flags} {
		if v, ok := get(key); ok {
			*p = v.text
		}
	}
	block := ""
	if v, ok := c.one(s.block, "block-size"); ok {
		if block = v.text; tgtvolume.BlockSize(block) == 0 && strings.TrimSpace(block) != "512" {
			c.warn(v.at, "%s: block-size %s is no power of two; the disk has 512, as tgt's would", where, block)
		}
	}
	if strings.HasPrefix(s.path, "NONE:") {
		store.Path = "" // a drive without a medium
	}
	var facts map[string]string
	if s.direct {
		facts = directFacts(c.o.Sys, s.path)
		if len(facts) == 0 {
			c.warn(s.at, "%s: direct-store %s: the device does not say what it is; it is served as backing-store would be", where, s.path)
		}
		if block == "" {
			block = facts["block-size"]
		}
	}
	l, err := tgtvolume.New(number, store, block, c.o.Known)
	if err != nil {
		c.fail(&Error{File: s.at.file, Line: s.at.line, Text: fmt.Sprintf("%s: %v", where, err)})
		return l, false
	}
	// Mode pages come first, as with tgt-admin: what they say can be said by an attribute, too, and that counts.
	if v, ok := get("write-cache"); ok {
		switch v.text {
		case "off":
			c.update(&l, where, "mode_page", confValue{text: writeCacheOff, at: v.at})
		case "on":
		default:
			c.warn(v.at, "%s: write-cache %s: want on or off; it stays on", where, v.text)
		}
	}
	for _, from := range [...]*confBlock{s.block, b} {
		for _, v := range from.values["mode_page"] {
			if err := v.check("mode_page"); err != nil {
				c.fail(err)
				continue
			}
			c.update(&l, where, "mode_page", v)
		}
	}
	for _, key := range lunAttributes {
		v, ok := get(key)
		if !ok {
			if v.text, ok = facts[key]; !ok {
				continue
			}
			v.at = s.at
		}
		c.update(&l, where, key, v)
	}
	for _, from := range [...]*confBlock{s.block, b} {
		for _, v := range from.values["params"] {
			if err := v.check("params"); err != nil {
				c.fail(err)
				continue
			}
			c.params(&l, where, t.TID, v)
		}
	}
	if len(c.errs) > failed {
		return l, false
	}
	return l, c.present(&l, where, s)
}

func (c *confDocument) update(l *spec.LUN, where, key string, v confValue) {
	if err := tgtvolume.Update(l, key, v.text, c.o.Known); err != nil {
		c.fail(v.errorf("%s: %v", where, err))
	}
}

// params carries out a list KEY=VALUE,KEY=VALUE as tgtadm would send it. ${tid} and ${lun} are replaced, as tgt 1.0.97 does.
func (c *confDocument) params(l *spec.LUN, where string, tid int, v confValue) {
	text := strings.NewReplacer("${tid}", strconv.Itoa(tid), "${lun}", strconv.Itoa(int(l.Number))).Replace(v.text)
	for kv := range strings.SplitSeq(text, ",") {
		if kv == "" {
			continue
		}
		key, value, ok := strings.Cut(kv, "=")
		if !ok {
			c.fail(v.errorf("%s: params %s: want KEY=VALUE", where, kv))
			continue
		}
		c.update(l, where, key, confValue{text: value, at: v.at})
	}
}

// present looks whether the store is there. One that is not is left out, as tgt-admin does, so that the others are served. Its number
// stays free: with tgt-admin the next store would get it, and initiators another disk than they know.
func (c *confDocument) present(l *spec.LUN, where string, s *confStore) bool {
	if l.Tgt.Path == "" || tgtvolume.Scheme(l.Tgt.Type) != "file" {
		return true
	}
	if err := exists(l.Tgt.Path); err != nil {
		c.warn(s.at, "%s is left out: %v", where, err)
		return false
	}
	if err := unix.Access(l.Tgt.Path, unix.W_OK); err == unix.EACCES || err == unix.EROFS {
		// tgtd opens for reading what it may not write.
		l.Volume, l.ReadOnly = tgtvolume.AddOptions(l.Volume, "readonly=on"), true
	}
	return true
}

// directFacts is what a SCSI device says of itself, in the words of a LUN's parameters: what tgt-admin asks sg_inq and sg_readcap for,
// the kernel has asked already.
func directFacts(sys, path string) map[string]string {
	if sys == "" {
		sys = "/sys"
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil
	}
	dir := filepath.Join(sys, "class/block", filepath.Base(real))
	facts := map[string]string{}
	read := func(name string) string {
		data, _, err := readFile(filepath.Join(dir, name), 4096)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(data))
	}
	put := func(key, value string) {
		if value != "" {
			facts[key] = value
		}
	}
	put("vendor_id", read("device/vendor"))
	put("product_id", read("device/model"))
	put("product_rev", read("device/rev"))
	if page, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80")); err == nil && len(page) > 4 {
		put("scsi_sn", strings.TrimSpace(string(page[4:])))
	}
	logical, _ := strconv.Atoi(read("queue/logical_block_size"))
	physical, _ := strconv.Atoi(read("queue/physical_block_size"))
	if logical == 0 || len(facts) == 0 {
		return facts
	}
	put("block-size", strconv.Itoa(logical))
	for e := 0; e < 8; e++ {
		if logical<<e == physical {
			put("lbppbe", strconv.Itoa(e))
		}
	}
	for key, name := range map[string]string{"optimal_xfer_gran": "queue/minimum_io_size", "optimal_xfer_len": "queue/optimal_io_size"} {
		if n, _ := strconv.Atoi(read(name)); n >= logical {
			put(key, strconv.Itoa(n/logical))
		}
	}
	return facts
}
