package raw

import (
	"context"
	"maps"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/internal/pace"
	"github.com/twlab/twlab/lab/labtest"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/measure/sockdiag"
	"github.com/twlab/twlab/server"
	serverraw "github.com/twlab/twlab/server/raw"
)

// states counts the sockets that have port on their side (local) or on the
// other (remote), as sock_diag lists them.
func states(t *testing.T, port uint16) (local, remote measure.Counts) {
	t.Helper()
	diag, err := sockdiag.Open()
	require.NoError(t, err)
	local, remote = measure.Counts{}, measure.Counts{}
	_, err = diag.Sockets(func(s measure.Socket) {
		switch port {
		case s.LocalPort:
			local[s.State]++
		case s.RemotePort:
			remote[s.State]++
		}
	})
	require.NoError(t, err)
	return local, remote
}

var lastPort = uint16(9000)

// freshPort is one that nothing of an earlier test is in TIME_WAIT on, also with
// -count.
func freshPort() uint16 {
	lastPort++
	return lastPort
}

// Each recipe by itself brings as many sockets to its state as were asked for,
// and leaves the other side where it says.
func TestRecipes(t *testing.T) {
	const n = 4
	for _, r := range []struct {
		state measure.State
		held  string // what is asked of the client
		door  server.Behaviour
		peers measure.Counts // on the server, its listener apart
	}{
		{measure.SynSent, "SYN_SENT", server.Drop, measure.Counts{}},
		{measure.Established, "ESTABLISHED", server.OnlySYN, measure.Counts{measure.SynRecv: n}},
		{measure.Established, "ESTABLISHED", server.Keep, measure.Counts{measure.Established: n}},
		{measure.FinWait1, "FIN_WAIT1", server.Deaf, measure.Counts{measure.Established: n}},
		{measure.FinWait2, "FIN_WAIT2", server.Keep, measure.Counts{measure.CloseWait: n}},
		{measure.CloseWait, "CLOSE_WAIT", server.Hang, measure.Counts{measure.FinWait2: n}},
		{measure.LastAck, "LAST_ACK", server.DeafHang, measure.Counts{measure.FinWait2: n}},
		{measure.Closing, "CLOSING", server.DeafLater, measure.Counts{measure.FinWait2: n}},
		{measure.TimeWait, "TIME_WAIT", "", measure.Counts{}},
	} {
		port := freshPort()
		t.Run(r.state.String()+"/"+string(r.door), func(t *testing.T) {
			labtest.Require(t, "netns")
			at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
			o := client.Options{Destinations: []netip.AddrPort{at}, Held: []client.Held{{State: r.held, N: n, At: []netip.AddrPort{at}}}}
			so := server.Options{Listen: []netip.AddrPort{at}, Backlog: 16, Closing: server.Last}
			if r.door != "" {
				so.Listen = []netip.AddrPort{netip.AddrPortFrom(at.Addr(), 8999)}
				so.Doors = []server.Door{{At: at, Behaviour: r.door}}
			}
			holding(t, o, so, func(func(int)) {
				var server, client measure.Counts
				settled := func() bool { // ACKs may be delayed by 40 ms
					server, client = states(t, port)
					delete(server, measure.Listen)
					return maps.Equal(server, r.peers) && maps.Equal(client, measure.Counts{r.state: n})
				}
				for begin := time.Now(); !settled() && time.Since(begin) < 10*time.Second; {
					time.Sleep(20 * time.Millisecond)
				}
				require.Equal(t, measure.Counts{r.state: n}, client)
				require.Equal(t, r.peers, server)
			})
		})
	}
}

// Sockets that no one reaches need no server.
func TestRecipesWithoutAServer(t *testing.T) {
	labtest.Require(t, "netns")
	at := netip.MustParseAddrPort("127.0.0.1:8998")
	before, _ := states(t, 0)
	o := client.Options{Destinations: []netip.AddrPort{at}, Held: []client.Held{{State: "LISTEN", N: 3}, {State: "CLOSE", N: 2}}}
	holding(t, o, server.Options{Listen: []netip.AddrPort{at}, Backlog: 16, Closing: server.Last}, func(func(int)) {
		listening, bound := 0, 0
		diag, err := sockdiag.Open()
		require.NoError(t, err)
		_, err = diag.Sockets(func(s measure.Socket) {
			switch s.State {
			case measure.Listen:
				listening++
			case measure.Close:
				bound++
			}
		})
		require.NoError(t, err)
		require.Equal(t, 3+1, listening, "and the server's")
		require.Contains(t, []int{0, 2}, bound, "listed since Linux 6.8")
	})
	require.Empty(t, before)
}

// What has died of age is made anew, to the number that is asked for.
func TestTimeWaitIsRefilled(t *testing.T) {
	labtest.Require(t, "netns")
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freshPort())
	o := client.Options{
		Destinations: []netip.AddrPort{at}, Refilled: true,
		Held: []client.Held{{State: "TIME_WAIT", N: 10, At: []netip.AddrPort{at}}},
	}
	holding(t, o, server.Options{Listen: []netip.AddrPort{at}, Backlog: 16, Closing: server.Last}, func(refill func(int)) {
		held := func(n int) func() bool { // the server's FIN may be on its way
			return func() bool {
				_, client := states(t, at.Port())
				return client[measure.TimeWait] == n
			}
		}
		require.Eventually(t, held(10), 10*time.Second, 10*time.Millisecond)
		refill(7)
		require.Eventually(t, held(17), 10*time.Second, 10*time.Millisecond)
	})
}

// holding runs a client that holds sockets, and its server; look is called
// while they are held.
func holding(t *testing.T, o client.Options, so server.Options, look func(refill func(int))) {
	t.Helper()
	epoch := pace.Monotonic()
	clock := pace.NewClock(epoch).Now
	ctx, stop := context.WithCancel(context.Background())
	var g errgroup.Group
	defer func() {
		stop()
		require.NoError(t, g.Wait())
	}()
	var release server.Signal
	ready, loaded, filled := make(chan struct{}), make(chan struct{}), make(chan struct{}, 1)
	g.Go(func() error {
		_, err := serverraw.Run(ctx, so, server.Control{Clock: clock, Epoch: epoch, Report: func(server.Stats) {}, Ready: func() { close(ready) }, Release: &release})
		return err
	})
	<-ready
	c := client.Control{Clock: clock, Epoch: epoch, Report: func(client.Stats) {}, Idle: release.Raise, Loaded: func(client.Stats) { close(loaded) }}
	var missing atomic.Int64
	if o.Refilled {
		c.Refill, c.Filled = func() int { return int(missing.Swap(0)) }, func() { filled <- struct{}{} }
	}
	g.Go(func() error {
		_, err := Run(ctx, o, c)
		if ctx.Err() != nil { // as planned
			return nil
		}
		return err
	})
	select {
	case <-loaded:
	case <-time.After(20 * time.Second):
		t.Fatal("the sockets were not there in time")
	}
	look(func(n int) {
		missing.Store(int64(n))
		<-filled
	})
}
