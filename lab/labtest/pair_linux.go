package labtest

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/internal/pace"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/measure/procnet"
	"github.com/twlab/twlab/server"
)

// Pair runs a client and a server of any engine against each other on loopback, in this process, until all
// connections are closed that will be. It returns what both counted, and by how much the kernel's counters grew.
func Pair(
	t testing.TB, ask func(context.Context, client.Options, client.Control) (client.Stats, error),
	serve func(context.Context, server.Options, server.Control) (server.Stats, error), o client.Options, so server.Options,
) (client.Stats, server.Stats, measure.Counters) {
	t.Helper()
	Require(t, "netns")
	proc, err := procnet.Open()
	require.NoError(t, err)
	before, err := proc.Counters()
	require.NoError(t, err)

	epoch := pace.Monotonic()
	clock := pace.NewClock(epoch).Now
	if o.Destinations == nil {
		o.Destinations = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8080")}
	}
	if o.Duration == 0 {
		o.Duration = 20 * time.Second
	}
	o.Timeout = 10 * time.Second
	so.Listen, so.Backlog = o.Destinations, 1024
	var release server.Signal
	ready := make(chan struct{})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var s server.Stats
	var c client.Stats
	var g errgroup.Group
	g.Go(func() (err error) {
		s, err = serve(ctx, so, server.Control{
			Clock: clock, Epoch: epoch, Ready: func() { close(ready) }, Release: &release, Report: func(now server.Stats) {
				if release.Raised() && (o.Stdlib.Leaves() || now.Live == now.Forgotten) {
					stop()
				}
			},
		})
		if err != nil { // nobody would come to be ready
			stop()
		}
		return err
	})
	select {
	case <-ready:
	case <-ctx.Done():
		require.NoError(t, g.Wait())
	}
	g.Go(func() (err error) {
		_, err = ask(ctx, o, client.Control{
			Clock: clock, Epoch: epoch, Report: func(client.Stats) {}, Idle: release.Raise,
			Loaded: func(s client.Stats) { c = s; release.Raise() },
		})
		if ctx.Err() != nil { // connections that the server forgot are held until the end
			err = nil
		}
		return err
	})
	require.NoError(t, g.Wait())
	after, err := proc.Counters()
	require.NoError(t, err)
	delta := measure.Counters{}
	for k := range after {
		delta[k] = after[k] - before[k]
	}
	return c, s, delta
}
