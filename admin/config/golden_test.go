package config

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/*.errors.txt anew")

// Each case in testdata/*.errors.txt is a file, and below it the errors and warnings that it gives, one a line. "@ NAME" begins another
// file of the same folder.
func TestMessages(t *testing.T) {
	for name, read := range map[string]func(path string) (*File, error){
		"yaml": func(path string) (*File, error) { return Load(path, Options{}) },
		"targetsconf": func(path string) (*File, error) {
			return LoadTargetsConf(path, TargetsConfOptions{Known: func(s string) bool { return s == "file" || s == "null" }, Sys: "testdata/nosys"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			golden := filepath.Join("testdata", name+".errors.txt")
			data, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			for c := range strings.SplitSeq(strings.TrimPrefix(string(data), "=== "), "\n=== ") {
				title, rest, _ := strings.Cut(c, "\n")
				text, want, _ := strings.Cut(rest, "--- says\n")
				want = strings.TrimRight(want, "\n")
				got := messages(t, text, read)
				if got != want && !*rewrite {
					t.Errorf("%s: says\n%s\nwant\n%s", title, got, want)
				}
				out.WriteString("=== " + title + "\n" + text + "--- says\n" + got + "\n\n")
			}
			if *rewrite {
				if err := os.WriteFile(golden, []byte(strings.TrimSuffix(out.String(), "\n")), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func messages(t *testing.T, text string, read func(string) (*File, error)) string {
	files := map[string]string{"empty.img": "", "f": ""}
	name := "f"
	for line := range strings.Lines(text) {
		if n, ok := strings.CutPrefix(line, "@ "); ok {
			name = strings.TrimSpace(n)
			files[name] = ""
			continue
		}
		files[name] += line
	}
	dir := write(t, files)
	for n, s := range files {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(strings.ReplaceAll(s, "$DIR", dir)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := read(filepath.Join(dir, "f"))
	var lines []string
	if err != nil {
		lines = append(lines, err.Error())
	} else {
		for _, w := range f.Warnings {
			lines = append(lines, "warning: "+w)
		}
	}
	return strings.NewReplacer(dir+"/", "", dir, "$DIR").Replace(strings.Join(lines, "\n"))
}
