package stdlib

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/client"
	clientraw "github.com/twlab/twlab/client/raw"
	"github.com/twlab/twlab/internal/sock"
	"github.com/twlab/twlab/lab/labtest"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/server"
	serverraw "github.com/twlab/twlab/server/raw"
	serverstdlib "github.com/twlab/twlab/server/stdlib"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// pair runs both engines of the standard library against each other.
func pair(t testing.TB, o client.Options, so server.Options) (client.Stats, server.Stats, measure.Counters) {
	t.Helper()
	o.Closing, so.Closing = client.First, server.Last // which they do not heed
	return labtest.Pair(t, Run, serverstdlib.Run, o, so)
}

// What client, server and kernel say of connections and their reuse is the same, whatever the
// program does; what is left to a race adds up.
func TestClientServerAndKernelAgree(t *testing.T) {
	burst := func(l client.Stdlib) client.Options {
		l.Burst = true
		return client.Options{Count: 64, Concurrency: 16, Keepalive: true, Stdlib: l}
	}
	slow := server.Stdlib{AnswerAfter: 100 * time.Millisecond}
	for _, k := range []struct {
		name   string
		o      client.Options
		so     server.Options
		opened int64 // 0: it depends
	}{
		{"pool of 16", burst(client.Stdlib{Pool: 16}), server.Options{Stdlib: slow}, 16},
		// What does not fit into the pool is thrown away after each of the bursts but the last, whose pool is closed.
		{"pool of 8", burst(client.Stdlib{Pool: 8}), server.Options{Stdlib: slow}, 16 + 3*8},
		{"net/http's own pool of 2", burst(client.Stdlib{}), server.Options{Stdlib: slow}, 16 + 3*14},
		{"a client per request", client.Options{Count: 100, Concurrency: 4, Keepalive: true, Stdlib: client.Stdlib{PerClient: 1}}, server.Options{}, 100},
		{"a client per 5 requests", client.Options{Count: 100, Concurrency: 1, Keepalive: true, Stdlib: client.Stdlib{PerClient: 5}}, server.Options{}, 20},
		{"clients left open", client.Options{Count: 100, Concurrency: 4, Keepalive: true, Stdlib: client.Stdlib{PerClient: 1, Abandon: true}}, server.Options{}, 100},
		{"four clients", client.Options{Count: 100, Concurrency: 4, Keepalive: true, Stdlib: client.Stdlib{Clients: 4}}, server.Options{}, 4},
		{"no keep-alive", client.Options{Count: 100, Concurrency: 4}, server.Options{}, 100},
		{"bodies closed unread", client.Options{Count: 100, Concurrency: 4, Keepalive: true, Stdlib: client.Stdlib{Read: client.ReadNothing}}, server.Options{Body: 1 << 10}, 100},
		{"bodies left open", client.Options{Count: 100, Concurrency: 4, Keepalive: true, Stdlib: client.Stdlib{Read: client.LeaveOpen}}, server.Options{Body: 1 << 20}, 100},
		{"decoded", client.Options{Count: 100, Concurrency: 1, Keepalive: true, Stdlib: client.Stdlib{Read: client.ReadJSON}}, server.Options{Body: 1 << 10}, 0},
		{"dropped", client.Options{Count: 100, Concurrency: 1, Keepalive: true}, server.Options{Stdlib: server.Stdlib{Drops: 2}}, 100},
		{"open loop", client.Options{Count: 200, Rate: 1000, Concurrency: 8, Keepalive: true, Stdlib: client.Stdlib{Pool: 8}}, server.Options{}, 0},
		{"sql, pool of 16", burst(client.Stdlib{SQL: true, Pool: 16}), server.Options{Stdlib: slow}, 16},
		{"sql's own pool of 2", burst(client.Stdlib{SQL: true}), server.Options{Stdlib: slow}, 16 + 3*14},
		{"sql, a session per query", client.Options{Count: 100, Concurrency: 4, Keepalive: true, Stdlib: client.Stdlib{SQL: true, PerClient: 1}}, server.Options{}, 100},
	} {
		t.Run(k.name, func(t *testing.T) {
			if k.so.Body == 0 {
				k.so.Body = 6
			}
			k.so.Stdlib.SQL = k.o.Stdlib.SQL
			c, s, d := pair(t, k.o, k.so)
			require.Equal(t, k.o.Count, c.OK, "%+v", c.Errors)
			require.Equal(t, []int64{c.Opened, c.Opened}, []int64{s.Accepted, d[measure.ActiveOpens]}, "connections by server and kernel")
			require.Equal(t, []int64{c.Fresh + c.Reused, c.Reused}, []int64{s.Requests, *s.Reused}, "requests and reused by the server")
			if k.opened > 0 {
				require.Equal(t, k.opened, c.Opened)
			}
			require.Equal(t, c.OK, c.Whole.Count)
			if c.ClosedFirst+c.ClosedLast+c.ClosedReset < c.Opened { // only where the program forgets to close
				require.True(t, k.o.Stdlib.Abandon || k.o.Stdlib.Read == client.LeaveOpen)
			} else {
				ended := int64(0)
				for _, n := range c.Ended {
					ended += n
				}
				require.Equal(t, c.Opened, ended, "each has one cause: %v", c.Ended)
			}
		})
	}
}

func TestWhyConnectionsEnd(t *testing.T) {
	slow := server.Options{Body: 6, Stdlib: server.Stdlib{AnswerAfter: 100 * time.Millisecond}}
	for _, sql := range []bool{false, true} {
		slow.Stdlib.SQL = sql
		c, _, _ := pair(t, client.Options{Count: 64, Concurrency: 16, Keepalive: true, Stdlib: client.Stdlib{SQL: sql, Burst: true}}, slow)
		require.Equal(t, map[client.Cause]int64{client.PoolFull: 4 * 14, client.LoadOver: 2}, c.Ended, "sql: %v", sql)
	}
	c, _, d := pair(t, client.Options{Count: 50, Concurrency: 1, Keepalive: true, Stdlib: client.Stdlib{Read: client.ReadNothing}}, server.Options{Body: 1 << 20})
	require.Equal(t, map[client.Cause]int64{client.BodyUnread: 50}, c.Ended)
	require.Positive(t, c.ClosedReset, "the kernel resets what is closed with bytes unread")
	require.GreaterOrEqual(t, d["Tcp.OutRsts"], c.ClosedReset)
	c, _, _ = pair(t, client.Options{Count: 50, Concurrency: 1}, server.Options{Body: 6})
	require.Equal(t, map[client.Cause]int64{client.NoKeepalive: 50}, c.Ended)

	idle := func(its, mine time.Duration) map[client.Cause]int64 {
		c, _, _ := pair(t, client.Options{Count: 4, Concurrency: 1, Keepalive: true, Stdlib: client.Stdlib{Rest: 200 * time.Millisecond, IdleTimeout: mine}},
			server.Options{Body: 6, Stdlib: server.Stdlib{IdleTimeout: its}})
		require.Equal(t, int64(4), c.OK)
		require.Equal(t, int64(4), c.Opened)
		return c.Ended
	}
	require.Equal(t, map[client.Cause]int64{client.ServerClosed: 3, client.LoadOver: 1}, idle(20*time.Millisecond, time.Minute))
	require.Equal(t, map[client.Cause]int64{client.ClientIdle: 3, client.LoadOver: 1}, idle(time.Minute, 20*time.Millisecond))
}

// A request that the server drops is sent again by net/http if that is safe, and an error otherwise.
func TestStaleConnections(t *testing.T) {
	for method, retried := range map[string]bool{client.Get: true, client.Post: false, client.PostKey: true, client.PostStream: false} {
		c, s, _ := pair(t, client.Options{Count: 20, Concurrency: 1, Keepalive: true, Stdlib: client.Stdlib{Method: method}},
			server.Options{Body: 6, Stdlib: server.Stdlib{Drops: 2}})
		if retried {
			require.Equal(t, []int64{20, 0, 19}, []int64{c.OK, c.Failed, c.Stale}, method)
			require.Equal(t, int64(20), s.Requests)
			continue
		}
		require.Equal(t, []int64{10, 10, 10}, []int64{c.OK, c.Failed, c.Stale}, method)
		require.Equal(t, []client.Error{{Errno: "EOF", Phase: client.Receive, Reused: true, Count: 10}}, c.Errors)
	}
}

// The server's idle timeout loses requests, the client's does not: at the moment at which the connection
// ends, which the workers seek.
func TestOnlyTheServersIdleTimeoutLosesRequests(t *testing.T) {
	race := func(its, mine, rest time.Duration) client.Stats {
		c, _, _ := pair(t, client.Options{Count: 480, Concurrency: 16, Keepalive: true, Stdlib: client.Stdlib{
			Clients: 16, Method: client.Post, IdleTimeout: mine, Rest: rest, Seek: true,
		}}, server.Options{Body: 6, Stdlib: server.Stdlib{IdleTimeout: its}})
		require.Equal(t, int64(480), c.OK+c.Failed)
		return c
	}
	c := race(40*time.Millisecond, 10*time.Second, 40*time.Millisecond)
	require.Positive(t, c.Failed)
	require.GreaterOrEqual(t, c.Stale, c.Failed, "%v: those of which nothing was sent are sent again", c.Errors)
	c = race(10*time.Second, 40*time.Millisecond, 40*time.Millisecond)
	require.Zero(t, c.Failed+c.Stale, "%v", c.Errors)
	require.Positive(t, c.Ended[client.ClientIdle])
}

// Whoever replaces a server under load breaks what is under way, or waits for it, or says so first.
func TestDrains(t *testing.T) {
	drain := func(how server.Draining, over time.Duration) (client.Stats, *server.Drained) {
		c, s, d := pair(t, client.Options{Concurrency: 30, Keepalive: true, Duration: 1200 * time.Millisecond, Stdlib: client.Stdlib{
			Pool: 30, Method: client.Post, Rest: 20 * time.Millisecond,
		}}, server.Options{Body: 6, Stdlib: server.Stdlib{
			AnswerAfter: 20 * time.Millisecond, Drain: server.Drain{How: how, After: 200 * time.Millisecond, Over: over},
		}})
		require.Equal(t, []int64{c.Opened, c.Opened}, []int64{s.Accepted, d[measure.ActiveOpens]})
		require.NotNil(t, s.Drained)
		require.Greater(t, c.OK, int64(300))
		require.Greater(t, c.Opened, int64(30))
		return c, s.Drained
	}
	abrupt, all := drain(server.Abrupt, 0)
	require.Positive(t, abrupt.Failed)
	graceful, _ := drain(server.Graceful, 0)
	require.LessOrEqual(t, graceful.Failed, graceful.Stale, "only those that meet the end of an idle connection")
	aged, few := drain(server.Aged, 800*time.Millisecond)
	require.Zero(t, aged.Failed, "%v", aged.Errors)
	require.Positive(t, aged.Ended[client.NoKeepalive])
	require.Less(t, few.Burst, all.Burst)
}

// A connection of HTTP/2 carries all, over TLS and without; of the handshakes of HTTP/1.1 all but the
// first few take up a session again where the clients may.
func TestProtocols(t *testing.T) {
	cert, key := certificate(t)
	for _, k := range []struct {
		protocol string
		keep     bool
		resume   bool
	}{{"http1", true, false}, {"https", true, false}, {"https", false, false}, {"https", false, true}, {"h2", true, false}, {"h2c", true, false}} {
		c, s, _ := pair(t, client.Options{Count: 200, Concurrency: 4, Keepalive: k.keep, Stdlib: client.Stdlib{Protocol: k.protocol, Roots: cert, Resume: k.resume}},
			server.Options{Body: 6, Stdlib: server.Stdlib{Protocol: k.protocol, Certificate: cert, Key: key}})
		require.Equal(t, int64(200), c.OK, "%+v: %v", k, c.Errors)
		require.Equal(t, []int64{c.Fresh + c.Reused, c.Reused}, []int64{s.Requests, *s.Reused}, "%+v", k)
		switch k.protocol {
		case "h2", "h2c":
			require.Equal(t, int64(1), c.Opened-c.Ended[client.NeverUsed])
		case "https":
			require.Equal(t, c.Handshakes, c.TLS.Count)
			if !k.keep {
				require.Equal(t, int64(200), c.Handshakes)
			}
			if k.resume {
				require.Greater(t, c.Resumed, int64(150))
			} else {
				require.Zero(t, c.Resumed)
			}
		}
	}
	_, err := Run(t.Context(), client.Options{
		Count: 1, Concurrency: 1, Destinations: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.9:9")}, Duration: time.Second, Timeout: time.Second,
		Closing: client.First, Stdlib: client.Stdlib{Protocol: "https"},
	}, client.Control{Clock: func() int64 { return 0 }})
	require.ErrorContains(t, err, "no certificate to trust")
}

// certificate is one of net/http/httptest's, which names 127.0.0.1, and its key.
func certificate(t *testing.T) (cert, key []byte) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	k, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k})
}

// An open loop times a request from when it was due: one slow answer shows in all that had to wait for it.
func TestLatencyCountsTheWait(t *testing.T) {
	// One at a time, each takes 20 ms, and one is due every 10 ms: the last of 40 waits for about 400 ms.
	slow := server.Options{Body: 6, Stdlib: server.Stdlib{AnswerAfter: 20 * time.Millisecond}}
	open, _, _ := pair(t, client.Options{Count: 40, Rate: 100, Concurrency: 1, Keepalive: true}, slow)
	require.Greater(t, open.Whole.Most, int64(350*time.Millisecond))
	require.Greater(t, open.Whole.P50, int64(150*time.Millisecond))
	closed, _, _ := pair(t, client.Options{Count: 40, Concurrency: 1, Keepalive: true}, slow)
	require.Less(t, closed.Whole.P50, open.Whole.P50)
	h, err := open.Whole.Histogram()
	require.NoError(t, err)
	require.Equal(t, open.Whole.Count, h.TotalCount())
	require.Equal(t, open.Whole.P99, h.ValueAtQuantile(99))
	require.GreaterOrEqual(t, open.Whole.P50, open.FirstByte.P50)
}

func TestUnixSocketsAreNoFiles(t *testing.T) {
	for _, sql := range []bool{false, true} {
		name := fmt.Sprintf("@twlab-test-%v", sql)
		c, s, d := pair(t, client.Options{Count: 50, Concurrency: 2, Keepalive: true, Stdlib: client.Stdlib{SQL: sql, Unix: name, PerClient: 1}},
			server.Options{Body: 6, Stdlib: server.Stdlib{SQL: sql, Unix: name}})
		require.Equal(t, []int64{50, 50, 50, 0}, []int64{c.OK, c.Opened, s.Accepted, d[measure.ActiveOpens]})
		require.NoFileExists(t, name)
	}
}

func TestFailuresAreNamed(t *testing.T) {
	labtest.Require(t, "netns")
	at := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.9:9")} // nobody listens
	for _, sql := range []bool{false, true} {
		c, err := Run(t.Context(), client.Options{
			Count: 5, Concurrency: 1, Keepalive: true, Destinations: at, Duration: 5 * time.Second, Timeout: time.Second, Closing: client.First, Stdlib: client.Stdlib{SQL: sql},
		}, client.Control{Clock: func() int64 { return time.Now().UnixNano() }, Report: func(client.Stats) {}})
		require.NoError(t, err)
		require.Equal(t, []client.Error{{Errno: "ECONNREFUSED", Phase: client.Connect, Count: 5}}, c.Errors)
	}
	_, err := Run(t.Context(), client.Options{Count: 1, Concurrency: 1, Destinations: at, Duration: time.Second, Timeout: time.Second, Closing: client.First, Stdlib: client.Stdlib{Read: "aloud"}}, client.Control{})
	require.ErrorContains(t, err, `read "aloud" is none of all, decode, close, never`)
}

// BenchmarkEngines makes the same requests by the raw pair and by the pair of net/http, in turn: over
// kept connections and with a connection for each. It reports CPU time of both ends together.
func BenchmarkEngines(b *testing.B) {
	labtest.Require(b, "netns")
	const n = 20000
	for _, keep := range []bool{true, false} {
		name, what := "connections", "cpu-us/connection"
		if keep {
			name, what = "requests", "cpu-us/request"
		}
		b.Run(name, func(b *testing.B) {
			o := client.Options{Count: n, Concurrency: 64, Keepalive: keep, Duration: time.Minute, Closing: client.Last, Stdlib: client.Stdlib{}}
			so := server.Options{Body: 6, Closing: server.First}
			var raw, std int64
			for b.Loop() {
				begin := sock.CPU()
				c, _, _ := labtest.Pair(b, clientraw.Run, serverraw.Run, o, so)
				raw += sock.CPU() - begin
				require.Equal(b, int64(n), c.OK)
				mine := o
				if keep {
					mine.Stdlib.Pool = 64
				}
				begin = sock.CPU()
				c, _, _ = labtest.Pair(b, Run, serverstdlib.Run, mine, so)
				std += sock.CPU() - begin
				require.Equal(b, int64(n), c.OK)
			}
			b.ReportMetric(float64(raw)/float64(b.N)/n/1e3, what)
			b.ReportMetric(float64(std)/float64(raw), "nethttp/raw")
		})
	}
}
