package login

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

var rewrite = flag.Bool("rewrite", false, "write what the logins of testdata come to into their files")

// TestTranscripts plays the logins of testdata/*.txt. A file is lines:
//
//	# a remark
//	target NAME WORD...    a target: alias=, chap=user:secret, out=user:secret, status=hex, redirect=, firstburst=
//	discovery WORD...      the same words, for discovery sessions
//	config WORD...         headerdigest, datadigest, nomd5, maxpdus=, maxkeybytes=, maxkeys=
//	login                  a new connection
//	> WORD... [KEYS]       a PDU of the initiator's: the words of Describe, defaults for what is not said
//	< …                    our response, as Describe puts it
//	! …                    the login failed, for the log
//	= …                    the login succeeded, with this result
//
// In a key's value {md5:0x:SECRET} is the response to the last challenge: algorithm (md5,
// sha1, sha256, sha3), encoding (0x, 0b), secret; {echo} is the challenge itself. \xNN is a byte, {a*300}
// 300 times a. The lines with < ! = are made by -rewrite.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d transcripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			old, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			now := play(t, old)
			if *rewrite {
				if err := os.WriteFile(file, now, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !bytes.Equal(old, now) {
				t.Errorf("%s is not what happens now:\n%s", file, firstDifference(old, now))
			}
		})
	}
}

func firstDifference(old, now []byte) string {
	a, b := strings.Split(string(old), "\n"), strings.Split(string(now), "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d\nwas %s\nnow %s", i+1, a[i], b[i])
		}
	}
	return fmt.Sprintf("%d lines, now %d", len(a), len(b))
}

// counting is a source of "random" numbers that a reader of a transcript can follow.
type counting byte

func (c *counting) Read(b []byte) (int, error) {
	for i := range b {
		*c++
		b[i] = byte(*c)
	}
	return len(b), nil
}

// A book is the table of targets of a transcript.
type book struct {
	targets   map[string]bookEntry
	discovery bookEntry
}

type bookEntry struct {
	info   TargetInfo
	status pdu.LoginStatus
}

func (b *book) Target(_ Initiator, name string) (TargetInfo, pdu.LoginStatus) {
	e, ok := b.targets[name]
	if !ok {
		return TargetInfo{}, pdu.TargetNotFound
	}
	return e.info, e.status
}

func (b *book) Discovery(Initiator) (Auth, pdu.LoginStatus) {
	return b.discovery.info.Auth, b.discovery.status
}

// A player is one transcript being played.
type player struct {
	t         testing.TB
	cfg       Config
	book      book
	n         *Negotiator
	id        byte
	challenge []byte
	out       bytes.Buffer
}

func play(t testing.TB, text []byte) []byte {
	p := &player{t: t, cfg: Defaults(), book: book{targets: make(map[string]bookEntry)}}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		if line != "" && strings.ContainsRune("<!=", rune(line[0])) {
			continue
		}
		p.out.WriteString(line + "\n")
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		switch words[0] {
		case "target":
			p.book.targets[words[1]] = p.entry(words[2:])
		case "discovery":
			p.book.discovery = p.entry(words[1:])
		case "config":
			p.config(words[1:])
		case "login":
			p.n = NewNegotiator(&p.cfg, &p.book, new(counting), 1)
		case ">":
			p.receive(words[1:])
		default:
			t.Fatalf("line %q", line)
		}
	}
	return p.out.Bytes()
}

func (p *player) number(s string, bits int) uint64 {
	v, err := strconv.ParseUint(s, 10, bits)
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

func (p *player) entry(words []string) bookEntry {
	var e bookEntry
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		user, secret, _ := strings.Cut(value, ":")
		switch name {
		case "alias":
			e.info.Alias = p.expand(value)
		case "chap":
			e.info.Auth.Incoming = append(e.info.Auth.Incoming, Account{user, []byte(secret)})
		case "out":
			e.info.Auth.Outgoing = &Account{user, []byte(secret)}
		case "status":
			v, err := strconv.ParseUint(value, 16, 16)
			if err != nil {
				p.t.Fatal(err)
			}
			e.status = pdu.LoginStatus(v)
		case "redirect":
			e.info.Redirect = value
		case "firstburst":
			params := p.cfg.Params
			params.FirstBurstLength = uint32(p.number(value, 32))
			e.info.Params = &params
		default:
			p.t.Fatalf("word %q", w)
		}
	}
	return e
}

func (p *player) config(words []string) {
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "headerdigest":
			p.cfg.RequireHeaderDigest = true
		case "datadigest":
			p.cfg.RequireDataDigest = true
		case "nodigests":
			p.cfg.Params.HeaderDigest, p.cfg.Params.DataDigest = false, false
		case "nomd5":
			p.cfg.ForbidMD5 = true
		case "maxpdus":
			p.cfg.MaxPDUs = int(p.number(value, 31))
		case "maxkeybytes":
			p.cfg.MaxKeyBytes = int(p.number(value, 31))
		case "maxkeys":
			p.cfg.MaxKeys = int(p.number(value, 31))
		default:
			p.t.Fatalf("word %q", w)
		}
	}
}

var stages = map[string]pdu.Stage{"security": 0, "operational": 1, "reserved": 2, "full": 3}

// receive builds a PDU out of words and gives it to the negotiator.
func (p *player) receive(words []string) {
	h := &pdu.Header{0: 0x40 | byte(pdu.OpLoginReq)}
	r := (*pdu.LoginReq)(h)
	r.SetISID([6]byte{0x40, 0x00, 0x01, 0x37, 0x00, 0x02})
	h.SetITT(1)
	h.SetCmdSN(1)
	var transit, cont bool
	var csg, nsg pdu.Stage
	var data []byte
	length := -1
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "T":
			transit = true
		case "C":
			cont = true
		case "csg":
			csg = stages[value]
		case "nsg":
			nsg = stages[value]
		case "itt":
			h.SetITT(uint32(p.number(value, 32)))
		case "cmdsn":
			h.SetCmdSN(pdu.SN(p.number(value, 32)))
		case "tsih":
			r.SetTSIH(uint16(p.number(value, 16)))
		case "cid":
			r.SetCID(uint16(p.number(value, 16)))
		case "isid":
			b, err := hex.DecodeString(value)
			if err != nil {
				p.t.Fatal(err)
			}
			r.SetISID([6]byte(b))
		case "version":
			lo, hi, _ := strings.Cut(value, "-")
			h[3], h[2] = byte(p.number(lo, 8)), byte(p.number(hi, 8))
		case "opcode":
			h[0] = byte(p.number(value, 6))
		case "ahs":
			h.SetAHSLen(int(p.number(value, 10)))
		case "len":
			length = int(p.number(value, 24))
		case "part": // text as it is, without a NUL
			data = append(data, p.expand(value)...)
		default:
			data = append(append(data, p.expand(w)...), 0)
		}
	}
	r.SetFlags(transit, cont, csg, nsg)
	if length < 0 {
		length = len(data)
	}
	h.SetDataLen(length)
	p.report(p.n.Received(h, data))
}

// expand does the {…} and \xNN of a word.
func (p *player) expand(w string) string {
	for strings.Contains(w, "{") {
		head, rest, _ := strings.Cut(w, "{")
		call, tail, _ := strings.Cut(rest, "}")
		w = head + p.call(call) + tail
	}
	for strings.Contains(w, `\x`) {
		head, rest, _ := strings.Cut(w, `\x`)
		b, err := hex.DecodeString(rest[:2])
		if err != nil {
			p.t.Fatal(err)
		}
		w = head + string(b) + rest[2:]
	}
	return w
}

var algorithms = map[string]CHAPAlgorithm{"md5": CHAPMD5, "sha1": CHAPSHA1, "sha256": CHAPSHA256, "sha3": CHAPSHA3256}

func (p *player) call(s string) string {
	if s == "echo" {
		return FormatBinary(p.challenge)
	}
	if text, times, ok := strings.Cut(s, "*"); ok {
		return strings.Repeat(text, int(p.number(times, 31)))
	}
	parts := strings.Split(s, ":")
	b := CHAPResponse(algorithms[parts[0]], p.id, []byte(parts[2]), p.challenge)
	if parts[1] == "0b" {
		return "0b" + base64.StdEncoding.EncodeToString(b)
	}
	return FormatBinary(b)
}

func (p *player) report(r Response) {
	if r.Drop {
		fmt.Fprintf(&p.out, "! dropped: %v\n", r.Err)
		return
	}
	if len(r.Data) != r.Header.DataLen() {
		p.t.Errorf("%d bytes of data, the header says %d", len(r.Data), r.Header.DataLen())
	}
	fmt.Fprintf(&p.out, "< %s\n", pdu.Describe(&r.Header, nil, r.Data))
	for k, err := range pdu.Keys(r.Data) {
		if err != nil {
			break // a part of a list that goes on
		}
		switch k.Name {
		case "CHAP_I":
			p.id = byte(p.number(k.Value, 8))
		case "CHAP_C":
			p.challenge, _ = ParseBinary(k.Value)
		}
	}
	if r.Status != pdu.LoginSuccess {
		fmt.Fprintf(&p.out, "! %v\n", r.Err)
	}
	if r.Final {
		res := p.n.Result()
		fmt.Fprintf(&p.out, "= %v initiator=%s alias=%q target=%q group=%d isid=%x tsih=%d cid=%d cmdsn=%d user=%q mutual=%v\n",
			res.Type, res.InitiatorName, res.InitiatorAlias, res.TargetName, res.PortalGroup, res.ISID, res.TSIH, res.CID, res.CmdSN, res.AuthUser, res.MutualAuth)
		fmt.Fprintf(&p.out, "= %+v\n", res.Params)
	}
}
