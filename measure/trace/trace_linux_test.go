package trace

import (
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/lab/labtest"
	"github.com/twlab/twlab/measure"
)

// It counts in every namespace, so the test's own will do: other processes can
// only add.
func TestChangesOfStateAreCounted(t *testing.T) {
	tr, err := Open()
	if err != nil {
		labtest.Skip(t, "bpf", err.Error())
	}
	defer tr.Close()
	info, err := os.Stat("/proc/self/ns/net")
	require.NoError(t, err)
	here := info.Sys().(*syscall.Stat_t).Ino
	require.NoError(t, tr.Forget(here))

	const n = 100
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	for range n {
		c, err := net.Dial("tcp4", l.Addr().String())
		require.NoError(t, err)
		s, err := l.Accept()
		require.NoError(t, err)
		require.NoError(t, c.Close())
		_, err = s.Read(make([]byte, 1)) // the client's FIN
		require.Error(t, err)
		require.NoError(t, s.Close())
	}
	require.NoError(t, l.Close())
	got, err := tr.Transitions(here)
	require.NoError(t, err)
	counted := map[[2]measure.State]int64{}
	for _, c := range got {
		counted[[2]measure.State{c.From, c.To}] = c.N
	}
	for _, want := range [][2]measure.State{
		{measure.Close, measure.SynSent},
		{measure.SynSent, measure.Established},
		{measure.Established, measure.FinWait1},
		{measure.FinWait1, measure.FinWait2},
		{measure.SynRecv, measure.Established},
		{measure.Established, measure.CloseWait},
		{measure.CloseWait, measure.LastAck},
	} {
		require.GreaterOrEqual(t, counted[want], int64(n), "%s > %s", want[0], want[1])
	}
	require.GreaterOrEqual(t, counted[[2]measure.State{measure.Close, measure.Listen}], int64(1))
	require.NoError(t, tr.Forget(here))
	elsewhere, err := tr.Transitions(1)
	require.NoError(t, err)
	require.Empty(t, elsewhere)
}
