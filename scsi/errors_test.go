package scsi

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/backstore"
	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// documented returns the rows of the table in docs/errors.md that follows a heading, cell by cell.
func documented(t *testing.T, heading string) [][]string {
	t.Helper()
	b, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("docs/errors.md has no %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var rows [][]string
	for _, line := range strings.Split(text, "\n") {
		if line, ok = strings.CutPrefix(line, "| "); !ok {
			continue
		}
		cells := strings.Split(strings.TrimSuffix(line, " |"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return rows[1:] // without the head
}

func codeText(c sense.Code) string { return fmt.Sprintf("%02Xh/%02Xh", c.ASC(), c.ASCQ()) }

// TestEveryErrorClass: what an initiator is told of each class of store error, for READ, WRITE, SYNCHRONIZE CACHE and UNMAP, is what
// docs/errors.md says, which has a row for each class with what initiators do on it.
func TestEveryErrorClass(t *testing.T) {
	rows := documented(t, "Errors of a volume")
	if len(rows) != len(answers) {
		t.Fatalf("%d classes are documented, there are %d", len(rows), len(answers))
	}
	for class := backstore.ClassInternal; int(class) < len(answers); class++ {
		i := slices.IndexFunc(rows, func(r []string) bool { return r[0] == class.String() })
		if i < 0 || len(rows[i]) != 9 {
			t.Errorf("%v: documented %q", class, rows)
			continue
		}
		for _, who := range []int{6, 7, 8} {
			if rows[i][who] == "" {
				t.Errorf("%v: nothing about what an initiator does", class)
			}
		}
		st := thinStore(t, 1<<20)
		st.fail = func(r *backstore.Request) error {
			return fmt.Errorf("the volume: %w", &backstore.Error{Class: class, Op: "test", Off: max(r.Off, 1024)})
		}
		r := newRig(t, st, DiskConfig{})
		for name, c := range map[string]*Command{
			"READ": r.read(r.nx, 0, 8), "WRITE": r.write(r.nx, 0, 8, 1), "SYNCHRONIZE CACHE": r.cmd(make([]byte, 10), nil), "UNMAP": r.cmd(unmapCDB(24), unmapList(0, 8)),
		} {
			if name == "SYNCHRONIZE CACHE" {
				c.CDB[0] = cdb.SynchronizeCache10
			}
			r.start(c)
			got := make([]string, 0, 6)
			var d sense.Data
			if got = append(got, class.String(), c.Status.String()); c.Status == sam.CheckCondition {
				var err error
				if d, err = sense.Parse(c.Sense); err != nil {
					t.Fatal(err)
				}
				got = append(got, d.Key.String(), codeText(d.Code))
			} else {
				got = append(got, "", "")
			}
			code := rows[i][4]
			if name == "READ" {
				code = rows[i][3]
			}
			if want := append(slices.Clone(rows[i][:3]), code); !slices.Equal(got, want) {
				t.Errorf("%s: told %q, documented %q", name, got, want)
			}
			if want := rows[i][5] == "block" && name != "SYNCHRONIZE CACHE"; d.HasInfo != want || want && d.Info != 2 {
				t.Errorf("%v, %s: INFORMATION %v %d", class, name, d.HasInfo, d.Info)
			}
			if c.Data != nil {
				t.Errorf("%v, %s: data with an error", class, name)
			}
		}
	}
	// What is away or slow is not damaged.
	for _, class := range []backstore.Class{backstore.ClassOffline, backstore.ClassTimeout, backstore.ClassTransport, backstore.ClassBusy, backstore.ClassFenced, backstore.ClassNoSpaceTemp, backstore.ClassCancelled} {
		if k := answers[class].key; k == sense.MediumError || k == sense.HardwareError {
			t.Errorf("%v is %v", class, k)
		}
	}
}

// TestUnclassifiedError: an error without a class, or with one that nobody knows, is lunar's own fault.
func TestUnclassifiedError(t *testing.T) {
	for _, err := range []error{os.ErrClosed, &backstore.Error{Class: backstore.Class(len(answers)), Op: "test"}} {
		st := newTestStore(t, 1<<20)
		st.fail = func(*backstore.Request) error { return err }
		r := newRig(t, st, DiskConfig{})
		r.want(r.do(transfer(cdb.Read10, 0, 1, 0), nil), "04/44/00")
	}
}

// TestAttentionsDocumented: docs/errors.md has every unit attention that an LU can establish, in their order of precedence.
func TestAttentionsDocumented(t *testing.T) {
	rows := documented(t, "Unit attentions")
	var resets []string
	for i, r := range rows {
		if len(r) != 3 || r[1] == "" || r[2] == "" {
			t.Errorf("row %d: %q", i, r)
		}
	}
	for i, code := range attentions {
		at := slices.IndexFunc(rows, func(r []string) bool { return r[0] == codeText(code) })
		if at < 0 {
			t.Errorf("%v (%s) is not documented", code, codeText(code))
		}
		if i < resetClass {
			if resets = append(resets, codeText(code)); at != i {
				t.Errorf("%v is row %d, its precedence is %d", code, at, i)
			}
		}
	}
	if len(rows) != len(attentions) || len(resets) != resetClass {
		t.Errorf("%d rows, %d conditions", len(rows), len(attentions))
	}
}
