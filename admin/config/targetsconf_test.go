package config

import (
	"cmp"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// demo has the stores that the samples name, in place of /srv/tgt-demo.
func demo(t *testing.T) string {
	files := map[string]string{}
	for _, name := range []string{"disk4.img", "disk5.img", "disk6.img", "tiny.img"} {
		files[name] = "data"
	}
	return write(t, files)
}

// moved reads a sample, with the stores in dir.
func moved(t *testing.T, name, dir string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata/tgt", name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(data), "/srv/tgt-demo", dir)
}

// sameDocument compares documents. The order of accounts depends on when their first user came; that of the mode pages of a block is
// random in tgt-admin.
func sameDocument(t *testing.T, got, want spec.Document) {
	t.Helper()
	got, want = got.Clone(), want.Clone()
	for _, d := range []*spec.Document{&got, &want} {
		slices.SortFunc(d.Accounts, func(a, b spec.Account) int { return cmp.Compare(a.Name, b.Name) })
		for i := range d.Targets {
			for j := range d.Targets[i].LUNs {
				slices.Sort(d.Targets[i].LUNs[j].ModePages)
			}
			if len(d.Targets[i].LUNs) == 0 {
				d.Targets[i].LUNs = nil
			}
		}
		if len(d.Targets) == 0 {
			d.Targets = nil
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("not what tgt-admin's commands make:\ngot  %s\nwant %s", yamlText(t, got), yamlText(t, want))
	}
}

// The document of a file is what the commands make that tgt-admin, measured, carries out for it.
func TestSamples(t *testing.T) {
	dir := demo(t)
	for _, c := range []struct {
		conf, commands string
		edit           func(string) string
		o              TargetsConfOptions
	}{
		{conf: "targets.conf", commands: "targets.commands"},
		{conf: "targets.conf", commands: "targets.1.0.97-commands"},
		{conf: "names.conf", commands: "names.commands", o: TargetsConfOptions{NamesAdmitAll: true}},
		// The CD is refused by lunar; in the sample it was in use, and left out.
		{conf: "more.conf", commands: "more.commands", edit: func(s string) string {
			from := strings.Index(s, "<backing-store "+dir+"/tiny.img>")
			to := from + strings.Index(s[from:], "</backing-store>\n") + len("</backing-store>\n")
			return s[:from] + s[to:]
		}},
	} {
		t.Run(c.commands, func(t *testing.T) {
			text := moved(t, c.conf, dir)
			if c.edit != nil {
				text = c.edit(text)
			}
			path := filepath.Join(write(t, map[string]string{"targets.conf": text}), "targets.conf")
			c.o.Sys = t.TempDir()
			f, err := LoadTargetsConf(path, c.o)
			if err != nil {
				t.Fatal(err)
			}
			var run tgtadmRun
			if err := run.run(moved(t, c.commands, dir)); err != nil {
				t.Fatal(err)
			}
			if len(run.doc.Targets) == 0 {
				t.Fatal("the sample makes no target")
			}
			sameDocument(t, f.Document, run.doc)
		})
	}
}

// A target that only names admit is not opened to everybody, unless that is asked for.
func TestNamesOnly(t *testing.T) {
	dir := demo(t)
	path := filepath.Join(write(t, map[string]string{"targets.conf": moved(t, "names.conf", dir)}), "targets.conf")
	f, err := LoadTargetsConf(path, TargetsConfOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if a := f.Document.Targets[0].Access; len(a) != 1 || a[0].Initiator != "iqn.1993-08.org.debian:01:only-me" {
		t.Errorf("access %+v", a)
	}
	if len(f.Warnings) != 1 || !strings.HasPrefix(f.Warnings[0], path+":3: ") || !strings.Contains(f.Warnings[0], "tgt-admin would admit everybody") {
		t.Errorf("warnings %q", f.Warnings)
	}
}

// What a device says of itself, as the kernel has it.
func TestDirectStore(t *testing.T) {
	sys := write(t, map[string]string{
		"class/block/disk4.img/device/vendor": "ATA     \n", "class/block/disk4.img/device/model": "Disk One\n", "class/block/disk4.img/device/rev": "1.0\n",
		"class/block/disk4.img/device/vpd_pg80":           "\x00\x80\x00\x06SERIAL",
		"class/block/disk4.img/queue/logical_block_size":  "4096\n",
		"class/block/disk4.img/queue/physical_block_size": "8192\n",
		"class/block/disk4.img/queue/minimum_io_size":     "8192\n",
		"class/block/disk4.img/queue/optimal_io_size":     "0\n",
	})
	dir := demo(t)
	path := filepath.Join(write(t, map[string]string{"targets.conf": "<target iqn.e:d>\n<direct-store " + dir + "/disk4.img>\nvendor_id OURS\n</direct-store>\ndirect-store\n</target>"}), "targets.conf")
	if _, err := LoadTargetsConf(path, TargetsConfOptions{Sys: sys}); err == nil || !strings.Contains(err.Error(), ":5: direct-store is a block") {
		t.Errorf("a line beside a block: %v", err)
	}
	path = filepath.Join(write(t, map[string]string{"targets.conf": "<target iqn.e:d>\n<direct-store " + dir + "/disk4.img>\nvendor_id OURS\n</direct-store>\n<backing-store " + dir + "/disk5.img>\n</backing-store>\n</target>"}), "targets.conf")
	f, err := LoadTargetsConf(path, TargetsConfOptions{Sys: sys})
	if err != nil {
		t.Fatal(err)
	}
	l := f.Document.Targets[0].LUNs
	if len(l) != 2 || l[0].Tgt.Path != dir+"/disk5.img" {
		t.Fatalf("LUNs %+v: backing stores come first", l)
	}
	if d := l[1]; d.Vendor != "OURS" || d.Product != "Disk One" || d.Revision != "1.0" || d.Serial != "SERIAL" || d.BlockSize != 4096 || d.PhysicalBlock != 8192 || d.OptimalGranularity != 2 || d.OptimalLength != 0 {
		t.Errorf("%+v", d)
	}
}

// A store that is not there is left out, and the others keep the numbers that they have when it is.
func TestMissingStore(t *testing.T) {
	dir := demo(t)
	text := "<target iqn.e:m>\nbacking-store " + dir + "/disk4.img\nbacking-store " + dir + "/disk5.img\nbacking-store " + dir + "/disk6.img\n</target>"
	path := filepath.Join(write(t, map[string]string{"targets.conf": text}), "targets.conf")
	if err := os.Remove(dir + "/disk5.img"); err != nil {
		t.Fatal(err)
	}
	f, err := LoadTargetsConf(path, TargetsConfOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l := f.Document.Targets[0].LUNs
	if len(l) != 2 || l[0].Number != 1 || l[1].Number != 3 || l[1].Tgt.Path != dir+"/disk6.img" {
		t.Errorf("%+v", l)
	}
	if len(f.Warnings) != 1 || !strings.Contains(f.Warnings[0], "targets.conf:3: target iqn.e:m LUN 2 is left out") {
		t.Errorf("warnings %q", f.Warnings)
	}
}

func yamlText(t *testing.T, d spec.Document) string {
	t.Helper()
	text, err := Marshal(&d, true)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}
