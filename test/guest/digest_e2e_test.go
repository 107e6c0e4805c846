//go:build e2e

package guest

import (
	"io"
	"math/rand/v2"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// How long fio writes and reads back in each of these tests, in seconds.
const (
	digestSeconds = 5
	noiseSeconds  = 20
)

// digests is the settings of an initiator that wants these two, and no others.
func digests(header, data string) []string {
	return []string{"node.conn[0].iscsi.HeaderDigest=" + header, "node.conn[0].iscsi.DataDigest=" + data}
}

// agreed is what a guest's kernel says of its session.
var agreed = regexp.MustCompile(`(HeaderDigest|DataDigest): (\S+)`)

// Each pair of digests is agreed upon, with a kernel that makes and checks its own, and the data is what was written.
func TestDigestPairs(t *testing.T) {
	t.Parallel()
	s := serve(t, "64M")
	g := Boot(t)
	for _, header := range []string{"None", "CRC32C"} {
		for _, data := range []string{"None", "CRC32C"} {
			t.Run("header "+header+", data "+data, func(t *testing.T) {
				disk := s.login(t, g, digests(header, data)...)
				got := map[string]string{}
				out := g.Run(t, "iscsiadm -m session -P 2")
				for _, m := range agreed.FindAllStringSubmatch(out, -1) {
					got[m[1]] = m[2]
				}
				if got["HeaderDigest"] != header || got["DataDigest"] != data {
					t.Errorf("the kernel has %v:\n%s", got, out)
				}
				verified(t, g, disk, digestSeconds).wait(t)
				verified(t, g, disk, digestSeconds, "--bsrange=512-256k --blockalign=512").wait(t)
				g.Run(t, "logout "+iqn)
			})
		}
	}
	if out := g.Run(t, "dmesg"); strings.Contains(out, "igest") {
		t.Errorf("the kernel found digests wrong:\n%s", out)
	}
	g.Shutdown(t)
	s.Stop(t)
	if log := s.Log(); strings.Contains(log, "damaged") {
		t.Errorf("lunard found digests wrong:\n%s", log)
	}
}

// Who asks for None first gets it, where both would do; a daemon that requires digests takes none but with them.
func TestDigestPolicies(t *testing.T) {
	t.Parallel()
	s := serve(t, "64M", "--header-digest=require")
	g := Boot(t)
	for _, c := range []struct {
		header, data string
		want         string // empty: refused
	}{
		{"CRC32C,None", "None,CRC32C", "CRC32C None"}, {"None,CRC32C", "CRC32C,None", "CRC32C CRC32C"}, {"None", "CRC32C", ""},
	} {
		login := "iscsiadm -m node -o delete >/dev/null 2>&1; login " + s.Addr + " " + iqn + " " + strings.Join(digests(c.header, c.data), " ")
		out, status := g.Try(t, login)
		if c.want == "" {
			if status == 0 {
				t.Errorf("%+v: let in: %s", c, out)
			}
			continue
		}
		if status != 0 {
			t.Errorf("%+v: status %d: %s", c, status, out)
			continue
		}
		m := agreed.FindAllStringSubmatch(g.Run(t, "iscsiadm -m session -P 2"), -1)
		if len(m) != 2 || m[0][2]+" "+m[1][2] != c.want {
			t.Errorf("%+v: the kernel has %v", c, m)
		}
		g.Run(t, "dd if=$(disk "+iqn+") of=/dev/null bs=64k count=4 iflag=direct status=none && logout "+iqn)
	}
	g.Shutdown(t)
	s.Stop(t)
}

// With both digests a network that turns bits does no harm: what is damaged is sent again, or the session begins anew, and fio finds
// every block as it wrote it.
func TestDigestsOverNoise(t *testing.T) {
	t.Parallel()
	s := serve(t, "64M")
	g := Boot(t)
	addr := noisy(t, s.Addr)
	disk := loginAt(t, g, addr, append(digests("CRC32C", "CRC32C"), settings[:]...)...)
	verified(t, g, disk, noiseSeconds).wait(t)
	g.Kill(t) // its logout might be what is damaged
	s.Stop(t)
	for _, what := range []string{"data came damaged", "a header came damaged"} {
		t.Logf("%s: %d lines of log", what, strings.Count(s.Log(), what))
	}
	if !strings.Contains(s.Log(), "data came damaged") {
		t.Errorf("lunard has found nothing wrong:\n%s", s.Log())
	}
}

// Of what comes through a noisy proxy the first noiseFrom bytes of a connection are as they were sent, so that logins succeed; then
// about one byte in noiseEvery is not.
const (
	noiseFrom  = 16 << 10
	noiseEvery = 1 << 20
)

// noisy starts a proxy for lunard's portal that turns bits of what initiators send; it ends with the test.
func noisy(t *testing.T, portal string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", Portal)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		l.Close()
		wg.Wait()
	})
	rnd := rand.New(rand.NewPCG(1, 2))
	serve := func(in net.Conn, rnd *rand.Rand) {
		defer in.Close()
		out, err := net.Dial("tcp", portal)
		if err != nil {
			return // the initiator sees its connection end
		}
		defer out.Close()
		ended := make(chan struct{})
		wg.Go(func() {
			select {
			case <-stop:
			case <-ended:
			}
			in.Close()
			out.Close()
		})
		wg.Go(func() {
			_, _ = io.Copy(in, out) // either side's end ends both
			in.Close()
		})
		buf := make([]byte, 64<<10)
		for total := 0; ; {
			n, err := in.Read(buf)
			if total += n; total > noiseFrom && n > 0 && rnd.IntN(noiseEvery) < n {
				buf[rnd.IntN(n)] ^= 1 << rnd.IntN(8)
			}
			if _, werr := out.Write(buf[:n]); err != nil || werr != nil {
				break
			}
		}
		close(ended)
	}
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return // closed
			}
			seed := rnd.Uint64()
			wg.Go(func() { serve(in, rand.New(rand.NewPCG(seed, 3))) })
		}
	})
	return l.Addr().String()
}
