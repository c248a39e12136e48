package raw

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/internal/sock"
	"github.com/twlab/twlab/lab/labtest"
	"github.com/twlab/twlab/server"
)

// BenchmarkConnections makes 20,000 connections with one request each by the
// raw pair and by net/http on both ends, in turn, and reports CPU time of both
// ends together: what the raw engine is worth as a ratio that holds on a busy
// machine.
func BenchmarkConnections(b *testing.B) {
	labtest.Require(b, "netns")
	const n = 20000
	var raw, std int64
	for b.Loop() {
		begin := sock.CPU()
		c, _, _ := pair(b, client.Options{Count: n, Concurrency: 64, Closing: client.Last, Duration: time.Minute}, server.First)
		raw += sock.CPU() - begin
		require.Equal(b, int64(n), c.OK)

		l, err := net.Listen("tcp4", "127.0.0.3:0")
		require.NoError(b, err)
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello\n") })}
		go func() { _ = srv.Serve(l) }()
		begin = sock.CPU()
		web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		done := make(chan error)
		for range 64 {
			go func() {
				for range n / 64 {
					resp, err := web.Get("http://" + l.Addr().String())
					if err != nil {
						done <- err
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				done <- nil
			}()
		}
		for range 64 {
			require.NoError(b, <-done)
		}
		std += (sock.CPU() - begin) * n / (n / 64 * 64)
		require.NoError(b, srv.Shutdown(context.Background()))
	}
	b.ReportMetric(float64(raw)/float64(b.N)/n/1e3, "cpu-us/connection")
	b.ReportMetric(float64(std)/float64(raw), "nethttp/raw")
}
