package raw

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/internal/pace"
	"github.com/twlab/twlab/lab/labtest"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/measure/procnet"
	"github.com/twlab/twlab/server"
	serverraw "github.com/twlab/twlab/server/raw"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// pair runs client and server against each other on loopback.
func pair(t testing.TB, o client.Options, closing server.Closing) (client.Stats, server.Stats, measure.Counters) {
	t.Helper()
	return pairWith(t, o, server.Options{Closing: closing})
}

func pairWith(t testing.TB, o client.Options, so server.Options) (client.Stats, server.Stats, measure.Counters) {
	t.Helper()
	return labtest.Pair(t, Run, serverraw.Run, o, so)
}

func TestOrderOfClosingIsExact(t *testing.T) {
	const n = 300
	for _, k := range []struct {
		client client.Closing
		server server.Closing
		check  func(t *testing.T, c client.Stats, s server.Stats)
		births int64 // for each connection, on both sides together
	}{
		{client.First, server.Last, func(t *testing.T, c client.Stats, s server.Stats) {
			require.Equal(t, []int64{n, n}, []int64{c.ClosedFirst, s.ClosedLast})
		}, 1},
		{client.Last, server.First, func(t *testing.T, c client.Stats, s server.Stats) {
			require.Equal(t, []int64{n, n}, []int64{c.ClosedLast, s.ClosedFirst})
		}, 1},
		{client.Both, server.Both, func(t *testing.T, c client.Stats, s server.Stats) {
			require.Equal(t, []int64{n, n}, []int64{c.ClosedFirst, s.ClosedFirst})
		}, 2},
		{client.Reset, server.Last, func(t *testing.T, c client.Stats, s server.Stats) {
			require.Equal(t, []int64{n, n}, []int64{c.ClosedReset, s.ClosedReset})
		}, 0},
		{client.Unread, server.Last, func(t *testing.T, c client.Stats, s server.Stats) {
			require.Equal(t, []int64{n, n, 0}, []int64{c.ClosedReset, s.ClosedReset, c.BytesReceived})
		}, 0},
		{client.First, server.Late, func(t *testing.T, c client.Stats, s server.Stats) {
			require.Equal(t, []int64{n, n}, []int64{c.ClosedFirst, s.ClosedLast})
		}, 1},
	} {
		t.Run(string(k.client+"_"+client.Closing(k.server)), func(t *testing.T) {
			c, s, d := pair(t, client.Options{Count: n, Concurrency: 8, Closing: k.client}, k.server)
			require.Empty(t, c.Errors)
			require.Empty(t, s.Errors)
			require.Equal(t, []int64{n, n, n, n}, []int64{c.OK, c.Opened, s.Accepted, s.Requests})
			k.check(t, c, s)
			require.Equal(t, []int64{n, n}, []int64{d[measure.ActiveOpens], d[measure.PassiveOpens]})
			if k.client == client.Both { // the last FINs may still be on their way
				require.Eventually(t, func() bool {
					proc, err := procnet.Open()
					require.NoError(t, err)
					now, err := proc.Counters()
					require.NoError(t, err)
					return now["sockstat.TCP.inuse"] == 0
				}, 10*time.Second, 20*time.Millisecond)
				return
			}
			require.Equal(t, k.births*n, d[measure.TimewaitBorn]+d[measure.TimewaitBornShort])
		})
	}
}

// A RST of the server reaches a client that has its answer, or not.
func TestServerResets(t *testing.T) {
	for _, body := range []int{0, 4 << 20} {
		c, s, d := pairWith(t, client.Options{Count: 40, Concurrency: 4, Closing: client.Last}, server.Options{Closing: server.Reset, Body: body})
		require.Equal(t, []int64{40, 40}, []int64{c.Opened, s.ClosedFirst})
		require.Zero(t, d[measure.TimewaitBorn]+d[measure.TimewaitBornShort])
		require.Equal(t, int64(40), d["Tcp.EstabResets"]/2, "both ends, on one stack")
		if body == 0 {
			require.Equal(t, []int64{40, s.BytesSent}, []int64{c.OK, c.BytesReceived})
			require.Equal(t, []client.Error{{Errno: "ECONNRESET", Phase: client.Closed, Count: 40}}, c.Errors)
		}
		require.LessOrEqual(t, c.BytesReceived, s.BytesSent)
	}
}

// A large answer comes in many pieces, whole.
func TestLargeAnswers(t *testing.T) {
	for _, keep := range []bool{false, true} {
		c, s, _ := pairWith(t, client.Options{Count: 20, Concurrency: 4, Keepalive: keep, Closing: client.First}, server.Options{Closing: server.Last, Body: 3 << 20})
		require.Empty(t, c.Errors)
		require.Equal(t, []int64{20, s.BytesSent}, []int64{c.OK, c.BytesReceived})
		require.Greater(t, c.BytesReceived, int64(20*3<<20))
	}
}

// A server that waits before it closes closes all the same.
func TestCloseAfter(t *testing.T) {
	c, s, _ := pairWith(t, client.Options{Count: 40, Concurrency: 4, Closing: client.First}, server.Options{Closing: server.Last, CloseAfter: 150 * time.Millisecond})
	require.Empty(t, c.Errors)
	require.Equal(t, []int64{40, 40, 0}, []int64{c.OK, s.ClosedLast, s.Live})
}

// With its port in TIME_WAIT a server listens again at once, if SO_REUSEADDR
// was set before and is set now.
func TestRestart(t *testing.T) {
	for _, k := range []struct {
		exclusive bool
		again     server.Restarting
		done      bool
	}{{false, server.Reusing, true}, {true, server.Reusing, false}, {false, server.Plain, false}} {
		at := []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), 8200)}
		if k.done {
			at[0] = netip.AddrPortFrom(at[0].Addr(), 8201)
		} else if k.exclusive {
			at[0] = netip.AddrPortFrom(at[0].Addr(), 8202)
		}
		_, s, _ := pairWith(t, client.Options{Destinations: at, Count: 5, Concurrency: 1, Closing: client.Last},
			server.Options{Closing: server.First, Exclusive: k.exclusive, Restart: k.again})
		require.NotNil(t, s.Restart)
		require.Equal(t, k.done, s.Restart.Done)
		require.Equal(t, k.done, len(s.Errors) == 0, "%v", s.Errors)
	}
}

func TestPoolIsFilledFirstAndUsedInTurn(t *testing.T) {
	for _, closing := range []struct {
		client client.Closing
		server server.Closing
	}{{client.First, server.Last}, {client.Last, server.First}, {client.Both, server.Both}, {client.Reset, server.Last}} {
		t.Run(string(closing.client), func(t *testing.T) {
			c, s, d := pair(t, client.Options{Count: 500, Concurrency: 8, Keepalive: true, Closing: closing.client}, closing.server)
			require.Empty(t, c.Errors)
			require.Equal(t, []int64{500, 8, 8, 492}, []int64{c.OK, c.Opened, c.Fresh, c.Reused})
			require.Equal(t, []int64{8, 500}, []int64{s.Accepted, s.Requests})
			require.Equal(t, int64(8), d[measure.ActiveOpens])
		})
	}
}

// A cap on requests per connection ends each on the side that has the cap.
func TestRequestsPerConnection(t *testing.T) {
	o := client.Options{Count: 400, Concurrency: 4, Keepalive: true, PerConnection: 10, Closing: client.First}
	c, s, _ := pairWith(t, o, server.Options{Closing: server.Last})
	require.Empty(t, c.Errors)
	require.Equal(t, int64(400), c.OK)
	require.GreaterOrEqual(t, c.Opened, int64(40))
	require.LessOrEqual(t, c.Opened, int64(44))
	require.Equal(t, []int64{c.Opened, c.Opened}, []int64{c.ClosedFirst, s.ClosedLast})

	o.PerConnection, o.Closing = 0, client.Last
	c, s, _ = pairWith(t, o, server.Options{Closing: server.First, PerConnection: 10})
	require.Empty(t, c.Errors)
	require.Equal(t, int64(400), c.OK)
	require.GreaterOrEqual(t, c.Opened, int64(40))
	require.LessOrEqual(t, c.Opened, int64(44))
	require.Equal(t, []int64{c.Opened, c.Opened}, []int64{c.ClosedLast, s.ClosedFirst})
}

// What the server forgets stays in CLOSE_WAIT there, and in FIN_WAIT2 here:
// without an owner, or held by a client that closed by half.
func TestForgottenConnections(t *testing.T) {
	for _, half := range []bool{false, true} {
		c, s, _ := pairWith(t, client.Options{Count: 200, Concurrency: 4, Closing: client.First, HalfClose: half}, server.Options{Closing: server.Last, Forgets: 25})
		require.Empty(t, c.Errors)
		require.Equal(t, []int64{200, 200}, []int64{c.OK, c.ClosedFirst})
		require.Equal(t, []int64{150, 50, 50}, []int64{s.ClosedLast, s.Forgotten, s.Live})
	}
}

// bind() counts a port once for all destinations; connect() counts it once for each.
func TestEarlyAndLatePorts(t *testing.T) {
	labtest.Require(t, "netns")
	old := setSysctl(t, "net/ipv4/ip_local_port_range", "41000 41009")
	defer setSysctl(t, "net/ipv4/ip_local_port_range", old)
	reuse := setSysctl(t, "net/ipv4/tcp_tw_reuse", "0")
	defer setSysctl(t, "net/ipv4/tcp_tw_reuse", reuse)
	o := client.Options{
		Count: 50, Concurrency: 1, Closing: client.First, Sources: []netip.Addr{netip.MustParseAddr("127.0.7.1")},
		Destinations: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.4:8080"), netip.MustParseAddrPort("127.0.0.5:8080")},
	}
	c, _, _ := pair(t, o, server.Last)
	require.Equal(t, int64(20), c.OK)
	require.Equal(t, []client.Error{{Errno: "EADDRNOTAVAIL", Phase: client.Connect, Count: 30}}, c.Errors)

	o.Sources = []netip.Addr{netip.MustParseAddr("127.0.7.3"), netip.MustParseAddr("127.0.7.4")}
	c, _, _ = pair(t, o, server.Last)
	require.Equal(t, int64(40), c.OK, "two sources, two destinations, ten ports")
	require.Equal(t, int64(40), c.Connect.Count)

	// Last: connect() passes by every port that bind() chose, whatever the address.
	o.EarlyPort, o.Sources = true, []netip.Addr{netip.MustParseAddr("127.0.7.2")}
	c, _, _ = pair(t, o, server.Last)
	require.Equal(t, int64(10), c.OK)
	require.Equal(t, []client.Error{{Errno: "EADDRINUSE", Phase: client.Connect, Count: 40}}, c.Errors)
}

func TestOpenLoopKeepsTheRateAndCountsLateStarts(t *testing.T) {
	c, _, _ := pair(t, client.Options{Count: 400, Rate: 1000, Concurrency: 64, Closing: client.First}, server.Last)
	require.Equal(t, int64(400), c.OK)
	took := time.Duration(c.End - c.Begin)
	require.GreaterOrEqual(t, took, 399*time.Millisecond, "never faster than the rate")

	// One at a time towards a server that is not there to answer in time: each
	// start after the first waits for the one before, and is late.
	l, err := net.Listen("tcp4", "127.0.0.1:0") // never accepts, never answers
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	epoch := pace.Monotonic()
	stats, err := Run(context.Background(), client.Options{
		Destinations: []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())}, Count: 3, Rate: 1000, Concurrency: 1,
		Duration: 5 * time.Second, Timeout: 200 * time.Millisecond, Closing: client.First,
	}, client.Control{Clock: pace.NewClock(epoch).Now, Epoch: epoch, Report: func(client.Stats) {}})
	require.NoError(t, err)
	require.GreaterOrEqual(t, stats.Late, int64(2), "the second and the third must be late; on a busy machine the first may be")
	require.Greater(t, stats.LateMost, int64(200*time.Millisecond))
	require.Equal(t, []client.Error{{Errno: "ETIMEDOUT", Phase: client.Receive, Count: 3}}, stats.Errors)
}

func TestErrorsNameErrnoAndPhase(t *testing.T) {
	labtest.Require(t, "netns")
	run := func(o client.Options) client.Stats {
		epoch := pace.Monotonic()
		o.Count, o.Concurrency, o.Duration, o.Timeout, o.Closing = 5, 2, 5*time.Second, 2*time.Second, client.First
		s, err := Run(context.Background(), o, client.Control{Clock: pace.NewClock(epoch).Now, Epoch: epoch, Report: func(client.Stats) {}})
		require.NoError(t, err)
		require.Equal(t, []int64{5, 5, 0}, []int64{s.Started, s.Failed, s.OK})
		return s
	}
	nobody := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}
	require.Equal(t, []client.Error{{Errno: "ECONNREFUSED", Phase: client.Connect, Count: 5}}, run(client.Options{Destinations: nobody}).Errors)

	rude, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = rude.Close() }()
	go func() {
		for {
			c, err := rude.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1024))
			_ = c.Close() // without an answer
		}
	}()
	there := []netip.AddrPort{netip.MustParseAddrPort(rude.Addr().String())}
	require.Equal(t, []client.Error{{Errno: "EOF", Phase: client.Receive, Count: 5}}, run(client.Options{Destinations: there}).Errors)
	require.Equal(t, []client.Error{{Errno: "EOF", Phase: client.Receive, Count: 5}}, run(client.Options{Destinations: there, Keepalive: true}).Errors)
}

func TestEveryPortTakenIsEADDRNOTAVAIL(t *testing.T) {
	labtest.Require(t, "netns")
	old := setSysctl(t, "net/ipv4/ip_local_port_range", "40000 40009")
	defer setSysctl(t, "net/ipv4/ip_local_port_range", old)
	reuse := setSysctl(t, "net/ipv4/tcp_tw_reuse", "0")
	defer setSysctl(t, "net/ipv4/tcp_tw_reuse", reuse)
	fresh := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.2:8080")} // no TIME_WAIT of other tests towards it
	c, _, _ := pair(t, client.Options{Destinations: fresh, Count: 25, Concurrency: 1, Closing: client.First}, server.Last)
	require.Equal(t, []int64{10, 15}, []int64{c.OK, c.Failed})
	require.Equal(t, []client.Error{{Errno: "EADDRNOTAVAIL", Phase: client.Connect, Count: 15}}, c.Errors)
}

// TestFailingStartsLeaveRoom: a closed loop without a count, in which every
// start fails at once, must still end when its time is over.
func TestFailingStartsLeaveRoom(t *testing.T) {
	labtest.Require(t, "netns")
	epoch := pace.Monotonic()
	begin := time.Now()
	s, err := Run(context.Background(), client.Options{
		Destinations: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}, Duration: 200 * time.Millisecond, Concurrency: 4,
		Timeout: time.Second, Closing: client.First,
	}, client.Control{Clock: pace.NewClock(epoch).Now, Epoch: epoch, Report: func(client.Stats) {}})
	require.NoError(t, err)
	require.Equal(t, s.Started, s.Failed)
	require.Less(t, time.Since(begin), 10*time.Second)
}

// setSysctl sets a sysctl of the test's own namespace and returns the old value.
func setSysctl(t *testing.T, name, value string) (old string) {
	t.Helper()
	path := "/proc/sys/" + name
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte(value), 0))
	return strings.TrimSpace(string(b))
}
