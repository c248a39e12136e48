package role

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/client"
	clientraw "github.com/twlab/twlab/client/raw"
	clientstdlib "github.com/twlab/twlab/client/stdlib"
	"github.com/twlab/twlab/internal/pace"
	"github.com/twlab/twlab/lab/netns"
	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/scenarios"
	"github.com/twlab/twlab/server"
	serverraw "github.com/twlab/twlab/server/raw"
	serverstdlib "github.com/twlab/twlab/server/stdlib"
)

// options waits for the first frame, which says what to do.
func (p *peer) options(ctx context.Context, into any) (start, error) {
	f, err := p.next(ctx)
	if err != nil {
		return start{}, err
	}
	if f.Kind != frameOptions {
		return start{}, fmt.Errorf("frame %q stands where %q belongs", f.Kind, frameOptions)
	}
	var raw json.RawMessage
	s := start{Options: &raw}
	if err := f.Decode(&s); err != nil {
		return s, err
	}
	return s, json.Unmarshal(raw, into)
}

// The engines by their names: nethttp and sql share a room.
var (
	clients = map[scenarios.Engine]func(context.Context, client.Options, client.Control) (client.Stats, error){
		scenarios.Raw: clientraw.Run, scenarios.NetHTTP: clientstdlib.Run, scenarios.SQL: clientstdlib.Run,
	}
	servers = map[scenarios.Engine]func(context.Context, server.Options, server.Control) (server.Stats, error){
		scenarios.Raw: serverraw.Run, scenarios.NetHTTP: serverstdlib.Run, scenarios.SQL: serverstdlib.Run,
	}
)

// report sends running figures; a pipe that is gone ends the role anyway.
func report[T any](p *peer) func(T) {
	return func(s T) { _ = p.Send(results.FrameStats, "", s) }
}

func runClient(ctx context.Context, p *peer) error {
	var o client.Options
	begin, err := p.options(ctx, &o)
	if err != nil {
		return err
	}
	if err := p.Send(frameReady, "", nil); err != nil {
		return err
	}
	for {
		f, err := p.next(ctx)
		if err != nil {
			return err
		}
		if f.Kind == frameGo {
			break
		}
	}
	var missing atomic.Int64
	control := client.Control{
		Clock: pace.NewClock(begin.Epoch).Now, Epoch: begin.Epoch, Report: report[client.Stats](p),
		Idle:   func() { _ = p.Send(frameIdle, "", nil) },
		Made:   netns.Made,
		Loaded: func(s client.Stats) { _ = p.Send(frameDone, "", s) },
	}
	if o.Refilled {
		control.Refill = func() int { return int(missing.Swap(0)) }
		control.Filled = func() { _ = p.Send(frameRefilled, "", nil) }
		go func() { // ends with the process's input, or ctx
			for {
				f, err := p.next(ctx)
				if err != nil {
					return
				}
				var n int64
				if f.Kind == frameRefill && f.Decode(&n) == nil {
					missing.Store(n)
				}
			}
		}()
	}
	_, err = clients[begin.Engine](ctx, o, control)
	return err
}

func runServer(ctx context.Context, p *peer) error {
	var o server.Options
	begin, err := p.options(ctx, &o)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var release server.Signal
	var orders sync.WaitGroup
	defer orders.Wait()
	defer stop()
	orders.Go(func() {
		for {
			f, err := p.next(ctx)
			if err != nil || f.Kind == frameStop {
				stop()
				return
			}
			if f.Kind == frameRelease {
				release.Raise()
			}
		}
	})
	stats, err := servers[begin.Engine](ctx, o, server.Control{
		Clock: pace.NewClock(begin.Epoch).Now, Epoch: begin.Epoch, Report: report[server.Stats](p), Release: &release,
		Ready: func() { _ = p.Send(frameReady, "", nil) },
	})
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("%w; choose another port with --set traffic.port=N", err)
	}
	if err != nil {
		return err
	}
	return p.Send(frameDone, "", stats)
}
