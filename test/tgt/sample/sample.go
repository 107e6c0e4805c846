package sample

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Demo is the folder of the backing files in the samples.
const Demo = "/srv/tgt-demo"

// A Sample is one command and its whole output.
type Sample struct {
	Command string
	Stdout  string
	Stderr  string // whole lines
	Exit    int
	Note    map[string]string // of its circumstances: what stands behind the word and its colon
}

// A Block is one command of a list.
type Block struct {
	Command string
	Stdout  string // whole lines
	Stderr  string // likewise
	Exit    int
}

// Dir is the folder of the samples.
func Dir(t testing.TB) string {
	t.Helper()
	gomod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(filepath.Dir(strings.TrimSpace(string(gomod))), "admin/tgtipc/testdata/samples")
}

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(Dir(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Read reads the sample of one command.
func Read(t testing.TB, name string) Sample {
	t.Helper()
	head, stdout, ok := strings.Cut(read(t, name), "# --- stdout, byte for byte, follows this line ---\n")
	if !ok {
		t.Fatalf("%s is no sample of one command", name)
	}
	s := Sample{Stdout: stdout, Note: map[string]string{}}
	for line := range strings.Lines(head) {
		line = strings.TrimRight(line, "\n")
		if v, ok := strings.CutPrefix(line, "# command: "); ok {
			s.Command = v
		}
		if v, ok := strings.CutPrefix(line, "# exit status: "); ok {
			s.Exit = status(t, name, strings.Fields(v)[0])
		}
		if v, ok := strings.CutPrefix(line, "# note: "); ok {
			what, text, _ := strings.Cut(v, ": ")
			s.Note[what] = text
		}
		if v, ok := strings.CutPrefix(line, "# stderr: "); ok {
			s.Stderr += v + "\n"
		}
	}
	return s
}

// Input reads a file that a sample was made with, less the line that says so.
func Input(t testing.TB, name string) string {
	t.Helper()
	_, text, _ := strings.Cut(read(t, name), "\n")
	return text
}

// Setup lists the commands of 00-setup.txt.
func Setup(t testing.TB) (commands []string) {
	t.Helper()
	for line := range strings.Lines(read(t, "00-setup.txt")) {
		if strings.HasPrefix(line, "tgtadm ") {
			commands = append(commands, strings.TrimSpace(line))
		}
	}
	return commands
}

// Blocks reads a list of commands.
func Blocks(t testing.TB, name string) (blocks []Block) {
	t.Helper()
	for line := range strings.Lines(read(t, name)) {
		line = strings.TrimRight(line, "\n")
		if v, ok := strings.CutPrefix(line, "$ "); ok {
			blocks = append(blocks, Block{Command: v})
			continue
		}
		if len(blocks) == 0 {
			continue
		}
		b := &blocks[len(blocks)-1]
		if v, ok := strings.CutPrefix(line, "stdout: "); ok {
			b.Stdout += v + "\n"
		}
		if v, ok := strings.CutPrefix(line, "stderr: "); ok {
			b.Stderr += v + "\n"
		}
		if v, ok := strings.CutPrefix(line, "exit: "); ok {
			b.Exit = status(t, name, strings.Fields(v)[0])
		}
	}
	return blocks
}

// A Wire is one command as bytes.
type Wire struct {
	Command string
	Header  string            // the request's, in hexadecimal digits
	Fields  map[string]string // as the header's words were decoded
	Payload string            // with its NUL; Python's notation for bytes
	Err     uint32            // of the response
	Len     uint32
}

// Wires reads 60-wire-requests.txt.
func Wires(t testing.TB) (wires []Wire) {
	t.Helper()
	const name = "60-wire-requests.txt"
	for line := range strings.Lines(read(t, name)) {
		line = strings.TrimRight(line, "\n")
		if v, ok := strings.CutPrefix(line, "$ "); ok {
			wires = append(wires, Wire{Command: v, Fields: map[string]string{}})
			continue
		}
		if len(wires) == 0 {
			continue
		}
		w := &wires[len(wires)-1]
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case word == "hdr":
			for _, kv := range strings.Fields(rest) {
				k, v, _ := strings.Cut(kv, "=")
				w.Fields[k] = strings.Trim(v, "'")
			}
		case word == "hdrhex":
			w.Header = rest
		case strings.HasPrefix(word, "payload["):
			w.Payload = rest
		case word == "rsp":
			for _, kv := range strings.Fields(rest) {
				k, v, _ := strings.Cut(kv, "=")
				if k == "err" || k == "len" {
					n := uint32(status(t, name, v))
					if k == "err" {
						w.Err = n
					} else {
						w.Len = n
					}
				}
			}
		}
	}
	return wires
}

func status(t testing.TB, name, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// Words splits a command as the shell would that ran it: at spaces, but for what is in single quotes.
func Words(command string) (words []string) {
	quoted, began := false, false
	var b strings.Builder
	for _, r := range command {
		switch {
		case r == '\'':
			quoted, began = !quoted, true
		case r == ' ' && !quoted:
			if began {
				words = append(words, b.String())
			}
			b.Reset()
			began = false
		default:
			b.WriteRune(r)
			began = true
		}
	}
	if began {
		words = append(words, b.String())
	}
	return words
}

// Files makes the disks of the setup, sparse, and returns their folder.
func Files(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"disk1", "disk2", "disk3", "disk4", "disk5", "disk6", "aio1", "direct1", "tiny"} {
		size := int64(64 << 20)
		if name == "tiny" {
			size = 1 << 20
		}
		path := filepath.Join(dir, name+".img")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Served takes what lunar refuses to serve out of a listing of targets: every LUN that is not a disk, or a controller.
func Served(listing string) string {
	var out, lun strings.Builder
	drop := false
	flush := func() {
		if !drop {
			out.WriteString(lun.String())
		}
		lun.Reset()
		drop = false
	}
	in := false
	for line := range strings.Lines(listing) {
		switch {
		case strings.HasPrefix(line, "        LUN: "):
			flush()
			in = true
		case in && !strings.HasPrefix(line, "            "):
			flush()
			in = false
		}
		if kind, ok := strings.CutPrefix(line, "            Type: "); ok {
			drop = kind != "disk\n" && kind != "controller\n"
		}
		if in {
			lun.WriteString(line)
		} else {
			out.WriteString(line)
		}
	}
	flush()
	return out.String()
}
