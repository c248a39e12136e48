// Package conduct runs plans: each trial in a fresh world of a backend, and a
// stored record as each of them ends. Trials that count run side by side;
// those that time run alone.
package conduct

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/twlab/twlab/internal/wire"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/scenarios"
	"github.com/twlab/twlab/scenarios/forecast"
)

// A Job is a plan and where its records go.
type Job struct {
	Plan  *scenarios.Plan
	Store *results.Store
}

// Options are what Run needs beside the jobs.
type Options struct {
	Backend lab.Backend
	Version string // of twlab
	// Jobs is the most trials that run side by side, of scenarios that say
	// that their trials may; 0 means JobsPerCPU for each CPU.
	Jobs int
	// Tracer counts changes of state; where it is nil, Untraced says why.
	Tracer   Tracer
	Untraced string
	// Observe sees every frame that a trial sends up (see results.FrameTrial
	// and its like), one at a time. It may be nil.
	Observe func(p *scenarios.Plan, t scenarios.Trial, f wire.Frame)
}

// A Tracer counts changes of state in network namespaces, which it knows by
// their inode numbers. See measure/trace.
type Tracer interface {
	Forget(netns uint64) error
	Transitions(netns uint64) ([]measure.Transition, error)
}

// JobsPerCPU is how many trials that count share a CPU: they mostly wait.
const JobsPerCPU = 20

// busy is the share of the machine's cores that trials side by side may be
// forecast to use.
const busy = 0.75

// Check says whether the backend has what the plan needs, before anything is
// built.
func Check(p *scenarios.Plan, b lab.Backend) error {
	for _, name := range p.Scenario.Needs {
		if _, err := lab.ReadSysctl(name); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("scenario %s is about %s: not on this kernel%s", p.Scenario.Name, name, lab.Versions(name))
		}
	}
	for _, v := range p.Scenario.Variants {
		if len(v.Proxy.Command) == 0 {
			continue
		}
		err := b.FindProgram(v.Proxy.Command[0])
		var missing *lab.MissingProgram
		if errors.As(err, &missing) {
			missing.Package = v.Proxy.Package
		}
		if err != nil {
			return fmt.Errorf("scenario %s: %w", p.Scenario.Name, err)
		}
	}
	have, err := b.OpenFiles()
	if err != nil {
		return err
	}
	for _, t := range p.Trials {
		if need, n := t.Cost().Files, t.Settings.Population.Total(); uint64(need) > have && n > 0 {
			return fmt.Errorf("too few file descriptors: variant %s needs %d in one process, the limit is %d: a population with %d fewer open sockets "+
				"would fit (TIME_WAIT needs none), or raise the hard limit (ulimit -Hn)", t.Variant, need, have, uint64(need)-have)
		}
	}
	free, err := b.Memory()
	if err != nil {
		return err
	}
	for _, t := range p.Trials {
		if need, n := t.Memory(), t.Settings.Held(); need > free && n > 0 {
			return fmt.Errorf("too little memory: the sockets of variant %s take about %d MiB, %d MiB are available: about %d of %d sockets would fit",
				t.Variant, need>>20, free>>20, uint64(float64(n)*float64(free)/float64(need)), n)
		}
	}
	if need := p.Files(); uint64(need) > have {
		return fmt.Errorf("too few file descriptors: the plan needs %d in one process, the limit is %d; "+
			"lower traffic.concurrency, or raise the hard limit (ulimit -Hn)", need, have)
	}
	return nil
}

// Run conducts all trials of all jobs. When ctx ends, or a trial cannot be
// run, it stops at once; records of ended trials are in their stores then as
// always.
func Run(ctx context.Context, jobs []Job, o Options) error {
	var mu sync.Mutex // held for a frame or a record: observers and stores are not shared
	run := func(ctx context.Context, j Job, t scenarios.Trial) error {
		rec, err := runTrial(ctx, t, o, func(f wire.Frame) {
			if o.Observe != nil {
				mu.Lock()
				defer mu.Unlock()
				o.Observe(j.Plan, t, f)
			}
		})
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%s, trial %d (%s): %w", t.Scenario, t.Number, t.Variant, err)
		}
		mu.Lock()
		defer mu.Unlock()
		return j.Store.Append(rec)
	}
	limit := o.Jobs
	if limit == 0 {
		limit = JobsPerCPU * runtime.NumCPU()
	}
	// No more at a time than the machine can carry: a world that waits for the
	// CPU still counts right, but its clocks say little.
	const parts = 1000 // of a core
	room := int64(parts * busy * float64(runtime.NumCPU()))
	cores := semaphore.NewWeighted(room)
	g, together := errgroup.WithContext(ctx)
	g.SetLimit(limit)
	for _, j := range jobs {
		for _, t := range j.Plan.Trials {
			if j.Plan.Scenario.Parallel {
				need := min(room, int64(parts*forecast.Of(t).Cores))
				if err := cores.Acquire(together, need); err != nil {
					break // a trial failed, or ctx ended; Wait says which
				}
				g.Go(func() error {
					defer cores.Release(need)
					return run(together, j, t)
				})
			}
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, j := range jobs {
		for _, t := range j.Plan.Trials {
			if j.Plan.Scenario.Parallel {
				continue
			}
			if err := run(ctx, j, t); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func runTrial(ctx context.Context, t scenarios.Trial, o Options, observe func(wire.Frame)) (*results.Record, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.Limit(), fmt.Errorf("gave up: it did not end within %s", t.Limit()))
	defer cancel()
	world, err := o.Backend.Start(ctx)
	if err != nil {
		return nil, err
	}
	rec, err := talk(world, t, o, observe)
	ended := world.Stop()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("the trial's process ended without a record: %w", errors.Join(ended, err))
	}
	return rec, err
}

func talk(world lab.Trial, t scenarios.Trial, o Options, observe func(wire.Frame)) (*results.Record, error) {
	conn := wire.New(world, world)
	order := results.Record{Schema: results.Schema, Trial: t, Environment: results.Environment{
		Twlab: o.Version, Backend: o.Backend.Name(), UserNamespace: world.UserNamespace(), Untraced: o.Untraced,
	}}
	if o.Tracer == nil && o.Untraced == "" {
		order.Environment.Untraced = "nobody asked for it"
	}
	namespaces := map[string]uint64{}
	if err := conn.Send(results.FrameTrial, "", order); err != nil {
		return nil, errors.Join(io.EOF, err)
	}
	for {
		f, err := conn.Recv()
		if err != nil {
			return nil, err
		}
		observe(f)
		switch f.Kind {
		case results.FrameStack:
			var s results.Stack
			if err := f.Decode(&s); err != nil {
				return nil, err
			}
			namespaces[s.Name] = s.NetNS
		case results.FrameTrace:
			counted := map[string][]measure.Transition{}
			for name, ns := range namespaces {
				if counted[name], err = o.Tracer.Transitions(ns); err != nil {
					return nil, err
				}
				if err := o.Tracer.Forget(ns); err != nil {
					return nil, err
				}
			}
			if err := conn.Send(results.FrameTraced, "", counted); err != nil {
				return nil, errors.Join(io.EOF, err)
			}
		case results.FrameError:
			var why string
			if err := f.Decode(&why); err != nil {
				return nil, err
			}
			return nil, errors.New(why)
		case results.FrameRecord:
			rec := &results.Record{}
			return rec, f.Decode(rec)
		}
	}
}
