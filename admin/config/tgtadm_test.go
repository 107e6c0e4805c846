package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/internal/tgtvolume"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

// A tgtadmRun makes a document of tgtadm's command lines, as a daemon would that is given them in turn.
type tgtadmRun struct {
	doc spec.Document
}

// run carries out what tgt-admin --pretend prints. Comments and what is no command are left out.
func (r *tgtadmRun) run(text string) error {
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.HasPrefix(line, "tgtadm ") {
			continue
		}
		if err := r.command(words(line)[1:]); err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
	}
	slices.SortFunc(r.doc.Targets, func(a, b spec.Target) int { return a.TID - b.TID })
	for i := range r.doc.Targets {
		slices.SortFunc(r.doc.Targets[i].LUNs, func(a, b spec.LUN) int { return int(a.Number) - int(b.Number) })
	}
	return nil
}

// words takes a command line apart as a shell does; of quoting it knows ' and ".
func words(line string) (out []string) {
	var b strings.Builder
	quote, some := byte(0), false
	flush := func() {
		if some {
			out = append(out, b.String())
			b.Reset()
			some = false
		}
	}
	for i := range len(line) {
		switch c := line[i]; {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, some = c, true
		case quote == 0 && c == ' ':
			flush()
		default:
			b.WriteByte(c)
			some = true
		}
	}
	flush()
	return out
}

func (r *tgtadmRun) command(args []string) error {
	long := map[string]string{"-T": "targetname", "-I": "initiator-address", "-Q": "initiator-name", "-b": "backing-store", "-v": "value", "-C": "control-port"}
	opt := map[string]string{}
	for i := 0; i < len(args); i++ {
		a := args[i]
		name, v, has := strings.Cut(strings.TrimPrefix(a, "--"), "=")
		if l := long[a]; l != "" {
			name = l
		}
		if name == "outgoing" {
			opt[name] = "1"
			continue
		}
		if !has {
			if i++; i >= len(args) {
				return fmt.Errorf("%s has no value", a)
			}
			v = args[i]
		}
		opt[name] = v
	}
	switch op := opt["mode"] + " " + opt["op"]; op {
	case "sys update":
		i := &r.doc.System.ISNS
		switch opt["name"] {
		case "iSNSAccessControl":
			i.AccessControl = opt["value"] == "On"
		case "iSNSServerIP":
			i.Server = opt["value"]
		case "iSNSServerPort":
			i.Port, _ = strconv.Atoi(opt["value"])
		}
	case "account new":
		r.doc.Accounts = append(r.doc.Accounts, spec.Account{Name: opt["user"], Secret: opt["password"]})
	case "account bind":
		a := &r.doc.Discovery
		if opt["tid"] != "" {
			t, err := r.target(opt)
			if err != nil {
				return err
			}
			a = &t.Auth
		}
		if opt["outgoing"] != "" {
			a.Outgoing = opt["user"]
		} else {
			a.Incoming = append(a.Incoming, opt["user"])
		}
	case "target new":
		tid, err := strconv.Atoi(opt["tid"])
		if err != nil {
			return err
		}
		r.doc.Targets = append(r.doc.Targets, spec.Target{TID: tid, Name: opt["targetname"], ExactNames: true, TgtNaming: true})
	case "target update", "target bind":
		t, err := r.target(opt)
		if err != nil {
			return err
		}
		switch {
		case opt["initiator-address"] != "":
			t.Access = append(t.Access, spec.Rule{Address: opt["initiator-address"]})
		case opt["initiator-name"] != "":
			t.Access = append(t.Access, spec.Rule{Initiator: opt["initiator-name"]})
		case opt["name"] == "state":
			t.Offline = opt["value"] == "offline"
		default:
			if t.Params == nil {
				t.Params = map[string]string{}
			}
			t.Params[opt["name"]] = opt["value"]
		}
	case "logicalunit new", "logicalunit update":
		t, err := r.target(opt)
		if err != nil {
			return err
		}
		n, err := strconv.ParseUint(opt["lun"], 10, 16)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(t.LUNs, func(l spec.LUN) bool { return uint64(l.Number) == n })
		if op == "logicalunit new" {
			if i >= 0 {
				return fmt.Errorf("LUN %d exists", n)
			}
			l, err := tgtvolume.New(uint16(n), spec.TgtStore{Type: opt["bstype"], Path: opt["backing-store"], Options: opt["bsopts"], Flags: opt["bsoflags"]}, opt["blocksize"], nil)
			t.LUNs = append(t.LUNs, l)
			return err
		}
		if i < 0 {
			return fmt.Errorf("no LUN %d", n)
		}
		for kv := range strings.SplitSeq(opt["params"], ",") {
			k, v, _ := strings.Cut(kv, "=")
			if err := tgtvolume.Update(&t.LUNs[i], k, v, nil); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("unexpected %s", op)
	}
	return nil
}

func (r *tgtadmRun) target(opt map[string]string) (*spec.Target, error) {
	for i := range r.doc.Targets {
		if strconv.Itoa(r.doc.Targets[i].TID) == opt["tid"] {
			return &r.doc.Targets[i], nil
		}
	}
	return nil, fmt.Errorf("no target %s", opt["tid"])
}
