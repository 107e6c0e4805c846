package adminchaos

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/lunar-iscsi/lunar/admin/spec"
	"github.com/lunar-iscsi/lunar/backstore"
)

// A call is one administrative call, as far as it may have changed something.
type call struct {
	begin, end uint64 // by the model's clock
	what       string
	maybe      bool // it failed half way, or its effect depends on what was there
	// What it set, by key (keysOf). With all, every other key below the prefix became "" (not there).
	sets   map[string]string
	all    bool
	prefix string
}

// touches returns what c made of key, if it touched it.
func (c *call) touches(key string) (string, bool) {
	if v, ok := c.sets[key]; ok {
		return v, true
	}
	return "", c.all && strings.HasPrefix(key, c.prefix)
}

// A model knows every call. Calls run at the same time, so it cannot tell the one document that must be there, but it can tell for each key
// which values may: those of calls that no other call follows which began when they had ended.
type model struct {
	mu    sync.Mutex
	clock uint64
	calls []*call
}

func (m *model) tick() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clock++
	return m.clock
}

// ended enters a call.
func (m *model) ended(c *call) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clock++
	c.end = m.clock
	m.calls = append(m.calls, c)
}

// start makes d what is there before every call.
func (m *model) start(d *spec.Document) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = []*call{{what: "the start", sets: keysOf(d), all: true}}
}

// check says where d cannot be explained by the calls.
func (m *model) check(d *spec.Document) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := keysOf(d)
	keys := map[string]bool{}
	for k := range now {
		keys[k] = true
	}
	for _, c := range m.calls {
		for k := range c.sets {
			keys[k] = true
		}
	}
	for key := range keys {
		if err := m.explain(key, now[key]); err != nil {
			return err
		}
	}
	return nil
}

func (m *model) explain(key, value string) error {
	var last []string // of which calls it could be
	for _, c := range m.calls {
		v, touched := c.touches(key)
		if !touched {
			continue
		}
		replaced := slices.ContainsFunc(m.calls, func(o *call) bool {
			_, t := o.touches(key)
			return t && !o.maybe && o.begin > c.end
		})
		if replaced {
			continue
		}
		if v == value {
			return nil
		}
		last = append(last, fmt.Sprintf("%s made it %q (%d to %d)", c.what, v, c.begin, c.end))
	}
	return fmt.Errorf("%s is %q, but %s", key, value, strings.Join(last, ", "))
}

// keysOf takes a document apart into what a single call changes. What is not there is "".
func keysOf(d *spec.Document) map[string]string {
	out := map[string]string{"discovery": strings.Join(d.Discovery.Incoming, ",")}
	for _, a := range d.Accounts {
		out["account "+a.Name] = a.Secret
	}
	for i := range d.Targets {
		putTarget(out, &d.Targets[i])
	}
	return out
}

// prefix begins the keys of a target.
func prefix(name string) string { return name + "/" }

func putTarget(out map[string]string, t *spec.Target) {
	p := prefix(t.Name)
	out[p] = "there"
	out[p+"alias"] = t.Alias
	out[p+"offline"] = flag(t.Offline)
	out[p+"access"] = fmt.Sprint(t.Access)
	out[p+"maps"] = ""
	if len(t.LUNMaps) != 0 {
		out[p+"maps"] = fmt.Sprint(t.LUNMaps)
	}
	out[p+"burst"] = t.Params["MaxBurstLength"]
	out[p+"auth"] = strings.Join(t.Auth.Incoming, ",")
	for i := range t.LUNs {
		putLUN(out, t.Name, &t.LUNs[i])
	}
}

func putLUN(out map[string]string, target string, l *spec.LUN) {
	p := lunPrefix(target, l.Number)
	volume, _, _ := strings.Cut(l.Volume, "?")
	out[p] = volume + " " + l.Identity
	out[p+"size"] = fmt.Sprint(sizeIn(l.Volume))
	out[p+"offline"] = flag(l.Offline)
	out[p+"readonly"] = flag(l.ReadOnly)
}

func lunPrefix(target string, lun uint16) string { return fmt.Sprintf("%s%d/", prefix(target), lun) }

func flag(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// sizeIn is the size that a volume's URI says.
func sizeIn(volume string) int64 {
	u, err := backstore.ParseURI(volume)
	if err != nil {
		return -1
	}
	text, _ := u.Option("size")
	n, err := backstore.ParseSize(text)
	if err != nil {
		return -1
	}
	return n
}
