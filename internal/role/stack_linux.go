package role

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/internal/pace"
	"github.com/twlab/twlab/internal/sock"
	"github.com/twlab/twlab/internal/wire"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/lab/netns"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/measure/procnet"
	"github.com/twlab/twlab/measure/sockdiag"
	"github.com/twlab/twlab/results"
)

// stack keeps one network namespace. Its orders come one at a time; drivers
// and sampler run beside them.
type stack struct {
	*peer
	name    string
	epoch   int64
	sampler *measure.Sampler
	drivers map[string]*wire.Conn

	background sync.WaitGroup // the sampler's loop and a relay for each driver
	stop       context.CancelFunc
	cpu        int64 // of this process when sampling began
}

func runStack(ctx context.Context, p *peer, name string) error {
	s := &stack{peer: p, name: name, drivers: map[string]*wire.Conn{}}
	ctx, s.stop = context.WithCancel(ctx)
	defer s.background.Wait()
	defer s.stop()
	for {
		f, err := p.next(ctx)
		if err != nil {
			return err
		}
		switch f.Kind {
		case frameSetup:
			err = s.setup(ctx, f)
		case frameStart:
			err = s.start(ctx, f)
		case frameMark:
			err = s.mark(ctx, f)
		case frameSysctls:
			err = s.set(f)
		case frameFinish:
			cost := s.sampler.Cost()
			cost.CPU = sock.CPU() - s.cpu
			return s.Send(frameCost, name, cost)
		default: // an order for a driver
			d, ok := s.drivers[f.Host]
			if !ok {
				return fmt.Errorf("stack %s: frame %q for host %q, which is not here", name, f.Kind, f.Host)
			}
			err = d.Forward(f)
		}
		if err != nil {
			return fmt.Errorf("stack %s: %w", name, err)
		}
	}
}

// setup makes the stack as ordered and tells what it came to.
func (s *stack) setup(ctx context.Context, f wire.Frame) error {
	var o setup
	if err := f.Decode(&o); err != nil {
		return err
	}
	s.epoch = o.Epoch
	if !o.Found {
		if err := netns.Configure(o.Stack, o.Link); err != nil {
			return err
		}
		if err := netns.AwaitLink(ctx, o.Stack, o.Link); err != nil {
			return err
		}
	}
	out := results.Stack{Name: s.name, Sysctls: map[string]string{}, Sockets: "sock_diag"}
	for _, a := range o.Stack.Addresses {
		out.Addresses = append(out.Addresses, a.String())
	}
	for _, h := range o.Hosts {
		out.Hosts = append(out.Hosts, h.Name)
	}
	if !o.Found {
		for _, line := range o.Stack.Try {
			out.Tried = append(out.Tried, lab.TrySysctl(line))
		}
	}
	names := append([]string(nil), lab.Recorded...)
	for n := range o.Stack.Sysctls {
		names = append(names, n)
	}
	for _, n := range names {
		v, err := lab.ReadSysctl(n)
		switch {
		case err == nil:
			out.Sysctls[n] = v
		case !errors.Is(err, os.ErrNotExist):
			return err
		}
	}
	proc, err := procnet.Open()
	if err != nil {
		return err
	}
	out.PID = proc.PID()
	var ns unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &ns); err != nil {
		return fmt.Errorf("stat /proc/self/ns/net: %w", err)
	}
	out.NetNS = ns.Ino
	var sockets measure.SocketReader = proc
	diag, err := sockdiag.Open()
	if err == nil {
		_, err = diag.Sockets(func(measure.Socket) {})
	}
	switch {
	case err == nil:
		sockets = diag
	case errors.Is(err, sockdiag.ErrNotSupported):
		out.Sockets = "procfs"
	default:
		return err
	}
	s.sampler = measure.NewSampler(o.Hosts, proc, sockets, pace.NewClock(o.Epoch).Now, measure.Options{}, func(snap measure.Snapshot) {
		_ = s.Send(results.FrameSnapshot, s.name, snap)
	})
	return s.Send(frameConfigured, s.name, out)
}

// set sets sysctls while the trial runs.
func (s *stack) set(f wire.Frame) error {
	var want map[string]string
	if err := f.Decode(&want); err != nil {
		return err
	}
	got := map[string]string{}
	for name, value := range want {
		if err := lab.SetSysctl(name, value); err != nil {
			return err
		}
		var err error
		if got[name], err = lab.ReadSysctl(name); err != nil {
			return err
		}
	}
	return s.Send(frameSet, s.name, got)
}

// start starts a driver and relays what it says.
func (s *stack) start(ctx context.Context, f wire.Frame) error {
	var o start
	if err := f.Decode(&o); err != nil {
		return err
	}
	proc, err := netns.Exec{}.Launch(ctx, o.Role)
	if err != nil {
		return err
	}
	conn := wire.New(proc, proc)
	if err := conn.Send(frameOptions, f.Host, o); err != nil {
		return errors.Join(err, proc.Stop())
	}
	s.drivers[f.Host] = conn
	s.background.Go(func() {
		done := false
		for {
			g, err := conn.Recv()
			if err != nil {
				if ended := proc.Stop(); !done && ctx.Err() == nil {
					_ = s.Send(results.FrameError, f.Host, fmt.Sprintf("driver %s ended before its work was done: %v", f.Host, errOr(ended, err)))
				}
				return
			}
			done = done || g.Kind == frameDone || g.Kind == results.FrameError
			g.Host = f.Host
			if s.Forward(g) != nil {
				_ = proc.Stop()
				return
			}
		}
	})
	return nil
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// mark starts a phase; the first one starts the sampler's loop.
func (s *stack) mark(ctx context.Context, f wire.Frame) error {
	var phase string
	if err := f.Decode(&phase); err != nil {
		return err
	}
	first := s.cpu == 0
	if first {
		s.cpu = sock.CPU()
	}
	snap, err := s.sampler.Mark(phase)
	if err != nil {
		return err
	}
	if first {
		s.background.Go(func() {
			if err := s.sampler.Run(ctx); err != nil && ctx.Err() == nil {
				_ = s.Send(results.FrameError, s.name, fmt.Sprintf("sampler of stack %s: %v", s.name, err))
			}
		})
	}
	return s.Send(frameMarked, s.name, snap)
}
