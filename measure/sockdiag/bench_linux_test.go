package sockdiag

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/internal/sock"
	"github.com/twlab/twlab/lab/labtest"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/measure/procnet"
)

// BenchmarkStateTable counts the same sockets by state in every way that is
// installed, one after the other in each round, and reports each as a multiple
// of sock_diag's time.
func BenchmarkStateTable(b *testing.B) {
	labtest.Require(b, "netns")
	const timeWait = 20000
	fill(b, timeWait)
	diag, err := Open()
	require.NoError(b, err)
	defer func() { _ = diag.Close() }()
	proc, err := procnet.Open()
	require.NoError(b, err)
	read := func(r measure.SocketReader) func() {
		return func() {
			n := 0
			_, err := r.Sockets(func(measure.Socket) { n++ })
			require.NoError(b, err)
			require.GreaterOrEqual(b, n, timeWait)
		}
	}
	shell := func(line string) func() {
		if _, err := exec.LookPath(strings.Fields(line)[0]); err != nil {
			return nil
		}
		return func() { require.NoError(b, exec.Command("sh", "-c", line).Run()) }
	}
	ways := []struct {
		name string
		f    func()
	}{
		{"sock_diag", read(diag)},
		{"procfs", read(proc)},
		{"ss|awk", shell(`ss -tan | awk '{++S[$1]} END {for(a in S) print a, S[a]}'`)},
		{"netstat|awk", shell(`netstat -n | awk '/^tcp/ {++S[$NF]} END {for(a in S) print a, S[a]}'`)},
	}
	took := make([]time.Duration, len(ways))
	for b.Loop() {
		for i, w := range ways {
			if w.f != nil {
				begin := time.Now()
				w.f()
				took[i] += time.Since(begin)
			}
		}
	}
	for i, w := range ways {
		if w.f != nil {
			b.ReportMetric(float64(took[i])/float64(took[0]), w.name+"/sock_diag")
		}
	}
	b.ReportMetric(float64(took[0])/float64(b.N)/timeWait, "ns/socket")
}

// fill leaves n sockets in TIME_WAIT, towards two addresses.
func fill(b *testing.B, n int) {
	b.Helper()
	for d := range 2 {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(d + 1)}), 8080)
		l, err := sock.Listen(at, 100, true)
		require.NoError(b, err)
		addr := sock.NewAddr(at)
		for range n / 2 {
			c, e := sock.Socket(addr)
			require.Zero(b, e)
			sock.Connect(c, addr)
			var s int
			require.Eventually(b, func() bool {
				s, e = sock.Accept(l)
				return e == 0
			}, time.Second, time.Microsecond)
			sock.Close(c)
			sock.Close(s)
		}
		sock.Close(l)
	}
}
