package config

import (
	"path/filepath"
	"strings"
	"testing"
)

// includes is a configuration in many files, in the ways in which tgt-admin takes them.
var includes = map[string]string{
	"targets.conf": `
include conf.d/*.conf
  Include "folder"
include DIR/{b,a}lone.conf   # after the folder
includeoptional DIR/nobody.conf
include DIR/none/*.conf
    initiator-address 10.0.0.1
include loop.conf
`,
	"conf.d/2.conf":   "<target iqn.e:two>\n  backing-store STORE/disk4.img\n</target>\n",
	"conf.d/10.conf":  "<target iqn.e:split>\n  initiator-address 10.0.0.3\n</target>\n",
	"conf.d/no.other": "<target iqn.e:no>\n</target>\n",
	"folder/z":        "<target iqn.e:z>\n  controller_tid 9\n</target>\n",
	"folder/.hidden":  "<target iqn.e:hidden>\n</target>\n",
	"folder/sub/x":    "<target iqn.e:sub>\n</target>\n",
	// What is included comes in place of the line, so that a block may go on in the next file.
	"alone.conf": "<target iqn.e:split>\n  incominguser alice secret\n</target>\n<target iqn.e:split>\n",
	"blone.conf": "<target iqn.e:split>\n  initiator-address 10.0.0.2\n</target>\n",
	"loop.conf":  "  initiator-name iqn.e:host\n</target>\n<target iqn.e:loop>\n</target>\ninclude DIR/targets.conf\n",
}

// Files are included, and files of files, in the order in which tgt-admin reads them: the addresses of one target in four files say so.
func TestIncludesAgainstTgtAdmin(t *testing.T) {
	admin := findTgtAdmin(t)
	store := demo(t)
	dir := write(t, nil)
	files := map[string]string{}
	for name, text := range includes {
		files[name] = strings.NewReplacer("DIR", dir, "STORE", store).Replace(text)
	}
	into(t, dir, files)
	path := filepath.Join(dir, "targets.conf")
	f, err := LoadTargetsConf(path, TargetsConfOptions{NamesAdmitAll: true})
	if err != nil {
		t.Fatal(err)
	}
	out, ok := admin.run(t, path)
	if !ok {
		t.Fatalf("tgt-admin: %s", out)
	}
	var run tgtadmRun
	if err := run.run(out); err != nil {
		t.Fatal(err)
	}
	if len(run.doc.Targets) != 5 {
		t.Fatalf("tgt-admin makes %d targets:\n%s", len(run.doc.Targets), out)
	}
	sameDocument(t, f.Document, run.doc)
	if len(f.Warnings) != 1 || !strings.Contains(f.Warnings[0], "targets.conf is included already") {
		t.Errorf("warnings %q", f.Warnings)
	}
}
