package sockdiag

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/lab/labtest"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/measure/procnet"
)

func TestMain(m *testing.M) { labtest.Main(m) }

func count(t *testing.T, r measure.SocketReader) map[measure.Family]measure.Counts {
	t.Helper()
	out := map[measure.Family]measure.Counts{measure.INET: {}, measure.INET6: {}}
	consistent, err := r.Sockets(func(s measure.Socket) { out[s.Family][s.State]++ })
	require.NoError(t, err)
	require.True(t, consistent)
	return out
}

// Both readers must agree with what the test made, and with each other, in a
// namespace where nothing else happens.
func TestTwoReadersSeeWhatIsThere(t *testing.T) {
	labtest.Require(t, "netns")
	diag, err := Open()
	require.NoError(t, err)
	defer func() { require.NoError(t, diag.Close()) }()
	proc, err := procnet.Open()
	require.NoError(t, err)
	before, err := proc.Counters()
	require.NoError(t, err)

	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	var held []net.Conn
	const established, closed = 7, 5
	for i := range established + closed {
		c, err := net.Dial("tcp4", l.Addr().String())
		require.NoError(t, err)
		s, err := l.Accept()
		require.NoError(t, err)
		if i < closed {
			require.NoError(t, c.Close())
			_, err = s.Read(make([]byte, 1))
			require.Error(t, err, "the FIN is here")
			require.NoError(t, s.Close())
			continue
		}
		held = append(held, c, s)
	}
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	want := map[measure.Family]measure.Counts{
		measure.INET:  {measure.Listen: 1, measure.Established: 2 * established, measure.TimeWait: closed},
		measure.INET6: {},
	}
	require.Eventually(t, func() bool { return count(t, diag)[measure.INET][measure.LastAck] == 0 }, 5*time.Second, 10*time.Millisecond)
	require.Equal(t, want, count(t, diag))
	require.Equal(t, want, count(t, proc))

	after, err := proc.Counters()
	require.NoError(t, err)
	require.Equal(t, int64(established+closed), after[measure.ActiveOpens]-before[measure.ActiveOpens])
	require.Equal(t, int64(established+closed), after[measure.PassiveOpens]-before[measure.PassiveOpens])
	require.Equal(t, int64(closed), after[measure.TimewaitBorn]-before[measure.TimewaitBorn])
	require.Equal(t, int64(closed), after[measure.TimewaitAlive])
	require.Contains(t, after, measure.TimewaitRecycled)
	require.Contains(t, after, measure.TimewaitRefused)
	require.Contains(t, after, measure.TimewaitBornShort)
}

// An orphan FIN_WAIT2 is a timewait minisock: sockstat counts it as tw, and
// only a dump tells it from TIME_WAIT.
func TestOrphanFinWait2IsATimewaitRow(t *testing.T) {
	labtest.Require(t, "netns")
	diag, err := Open()
	require.NoError(t, err)
	defer func() { _ = diag.Close() }()
	proc, err := procnet.Open()
	require.NoError(t, err)
	before, err := proc.Counters()
	require.NoError(t, err)

	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	c, err := net.Dial("tcp4", l.Addr().String())
	require.NoError(t, err)
	s, err := l.Accept()
	require.NoError(t, err)
	defer func() { _ = s.Close() }()
	require.NoError(t, c.Close()) // the server keeps its end

	minisocks := func(r measure.SocketReader) int {
		n := 0
		_, err := r.Sockets(func(s measure.Socket) {
			if s.State == measure.FinWait2 && s.TimewaitRow {
				n++
			}
		})
		require.NoError(t, err)
		return n
	}
	require.Eventually(t, func() bool { return minisocks(diag) == 1 }, 5*time.Second, 10*time.Millisecond, "the delayed ACK makes it FIN_WAIT2")
	require.Equal(t, 1, minisocks(proc))
	after, err := proc.Counters()
	require.NoError(t, err)
	require.Equal(t, int64(1), after[measure.TimewaitAlive]-before[measure.TimewaitAlive])
}

func FuzzParse(f *testing.F) {
	msg := make([]byte, unix.SizeofNlMsghdr+sizeofDiagMsg)
	msg[0], msg[4], msg[8] = byte(len(msg)), sockDiagByFamily, 1
	f.Add(msg)
	f.Add(append(msg, msg...))
	f.Add([]byte{16, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		_, _, err := parse(b, 1, measure.INET, func(measure.Socket) { n++ })
		if err == nil && n > len(b)/sizeofDiagMsg {
			t.Fatalf("%d sockets in %d bytes", n, len(b))
		}
	})
}
