package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spf13/cobra"

	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
)

func TestUnits(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 512: "512 B", 1024: "1 KiB", 1536: "1.5 KiB", 10 << 30: "10 GiB", math.MaxInt64: "8 EiB"} {
		if got := size(n); got != want {
			t.Errorf("size %d is %q, want %q", n, got, want)
		}
	}
	if got := exactly(1 << 30); got != "1 GiB (1073741824 bytes)" {
		t.Error(got)
	}
	for n, want := range map[float64]string{0: "0", 950.4: "950", 9999: "9999", 12345: "12.3k", 4.5e6: "4.5M", 2e9: "2.0G"} {
		if got := count(n); got != want {
			t.Errorf("count %v is %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{16 * time.Microsecond: "16µs", 1500 * time.Microsecond: "1.5ms", 90 * time.Second: "1m30s", 25 * time.Hour: "1d1h", 61 * time.Minute: "1h1m", 1200 * time.Millisecond: "1.2s"} {
		if got := span(d); got != want {
			t.Errorf("span %v is %q, want %q", d, got, want)
		}
	}
}

// TestTablesAreSafe: what comes from the network moves no cursor, and nothing is left empty.
func TestTablesAreSafe(t *testing.T) {
	var b bytes.Buffer
	x := newTable(&b, "A", "BB")
	x.row("\x1b[2Jevil\r\n", "")
	x.row(1, "longer")
	if err := x.end(); err != nil {
		t.Fatal(err)
	}
	if want := "A           BB\n?[2Jevil??  -\n1           longer\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestQuantiles(t *testing.T) {
	h := &api.Histogram{Sum: durationpb.New(100 * time.Millisecond), Buckets: []*api.Histogram_Bucket{{LeNs: 16000, Count: 98}, {LeNs: 32000, Count: 1}, {Count: 1}}}
	if mean(h) != "1.0ms" || quantile(h, .5) != "≤16µs" || quantile(h, .99) != "≤32µs" || quantile(h, .999) != ">32µs" {
		t.Error(mean(h), quantile(h, .5), quantile(h, .99), quantile(h, .999))
	}
	if mean(nil) != "" || quantile(&api.Histogram{}, .5) != "" {
		t.Error("nothing has a mean")
	}
	old := &api.Histogram{Sum: durationpb.New(90 * time.Millisecond), Buckets: []*api.Histogram_Bucket{{LeNs: 16000, Count: 98}, {LeNs: 32000}, {}}}
	if d := between(h, old); total(d) != 2 || mean(d) != "5.0ms" {
		t.Error(d)
	}
	if d := between(old, h); total(d) != 98 {
		t.Error("of another LUN:", d)
	}
}

// TestJSON: every field is there under its name, in the order of the .proto files, as scripts like it.
func TestJSON(t *testing.T) {
	on := true
	var b bytes.Buffer
	err := writeJSON(&b, []*api.Lun{{Number: 1, Volume: "mem:?a=1&b=<2>", Thin: &on}}, false)
	if err != nil {
		t.Fatal(err)
	}
	var list []map[string]any
	if err := json.Unmarshal(b.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	l := list[0]
	if len(l) != (&api.Lun{}).ProtoReflect().Descriptor().Fields().Len() || l["number"] != 1.0 || l["volume"] != "mem:?a=1&b=<2>" || l["thin"] != true || l["write_cache"] != nil || l["tgt"] != nil || l["vendor"] != "" {
		t.Errorf("%v", l)
	}
	if !strings.Contains(b.String(), "b=<2>") || strings.Index(b.String(), "number") > strings.Index(b.String(), "volume") {
		t.Errorf("%s", b.String())
	}
	b.Reset()
	n := uint32(0)
	if err := writeJSON(&b, &api.Event{Kind: api.EventKind_EVENT_KIND_LUN_ADDED, Lun: &n, Time: timestamppb.New(time.Unix(1, 5e8))}, true); err != nil {
		t.Fatal(err)
	}
	if want := `{"time":"1970-01-01T00:00:01.5Z","kind":"lun_added","target":"","lun":0,"peer":"","detail":"","caller":""}` + "\n"; b.String() != want {
		t.Errorf("%s, want %s", b.String(), want)
	}
	b.Reset()
	if err := writeJSON(&b, &api.LunStats{Reads: math.MaxUint64}, true); err != nil || !strings.Contains(b.String(), `"reads":18446744073709551615`) {
		t.Errorf("%s, %v", b.String(), err)
	}
	b.Reset()
	if err := writeJSON(&b, &api.Histogram{Sum: durationpb.New(1500 * time.Millisecond)}, true); err != nil || b.String() != `{"buckets":[],"sum":1.5}`+"\n" {
		t.Errorf("%s, %v", b.String(), err)
	}
	b.Reset()
	if err := writeJSON(&b, []*api.Rule(nil), true); err != nil || b.String() != "[]\n" {
		t.Errorf("no rules are %s, %v", b.String(), err)
	}
}

// TestSecrets: a secret comes from a file or from standard input, its first line, and is never empty.
func TestSecrets(t *testing.T) {
	file := t.TempDir() + "/secret"
	if err := os.WriteFile(file, []byte("from the file\r\nnot this\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ file, in, want, err string }{
		{file, "other", "from the file", ""},
		{"-", "from stdin\nmore", "from stdin", ""},
		{"", "without an end", "without an end", ""},
		{"", " blanks count \n", " blanks count ", ""},
		{"", "", "", "is empty"},
		{"", "\n", "", "is empty"},
		{"", strings.Repeat("x", maxSecret+1), "", "longer than"},
		{file + "x", "", "", "no such file"},
	} {
		cmd := &cobra.Command{}
		cmd.SetIn(strings.NewReader(c.in))
		got, err := readSecret(cmd, c.file, "alice")
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}
