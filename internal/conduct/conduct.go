// Package conduct runs a plan: each trial in a fresh world of a backend, one
// after another, and a stored record as each of them ends.
package conduct

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/twlab/twlab/internal/wire"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/scenarios"
)

// Options are what Run needs beside the plan. All are required but Observe.
type Options struct {
	Backend lab.Backend
	Store   *results.Store
	Version string // of twlab
	// Observe sees every frame that a trial sends up (see results.FrameTrial
	// and its like), on Run's goroutine.
	Observe func(t scenarios.Trial, f wire.Frame)
}

// Check says whether the backend has what the plan needs, before anything is
// built.
func Check(p *scenarios.Plan, b lab.Backend) error {
	have, err := b.OpenFiles()
	if err != nil {
		return err
	}
	if need := p.Files(); uint64(need) > have {
		return fmt.Errorf("too few file descriptors: the plan needs %d in one process, the limit is %d; "+
			"lower traffic.concurrency, or raise the hard limit (ulimit -Hn)", need, have)
	}
	return nil
}

// Run conducts all trials. When ctx ends it stops at once; records of ended
// trials are in the store then as always.
func Run(ctx context.Context, p *scenarios.Plan, o Options) error {
	for _, t := range p.Trials {
		rec, err := runTrial(ctx, t, o)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("trial %d (%s): %w", t.Number, t.Variant, err)
		}
		if err := o.Store.Append(rec); err != nil {
			return err
		}
	}
	return nil
}

func runTrial(ctx context.Context, t scenarios.Trial, o Options) (*results.Record, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.Limit(), fmt.Errorf("gave up: it did not end within %s", t.Limit()))
	defer cancel()
	world, err := o.Backend.Start(ctx)
	if err != nil {
		return nil, err
	}
	rec, err := talk(world, t, o)
	ended := world.Stop()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("the trial's process ended without a record: %w", errors.Join(ended, err))
	}
	return rec, err
}

func talk(world lab.Trial, t scenarios.Trial, o Options) (*results.Record, error) {
	conn := wire.New(world, world)
	order := results.Record{Schema: results.Schema, Trial: t, Environment: results.Environment{
		Twlab: o.Version, Backend: o.Backend.Name(), UserNamespace: world.UserNamespace(),
	}}
	if err := conn.Send(results.FrameTrial, "", order); err != nil {
		return nil, errors.Join(io.EOF, err)
	}
	for {
		f, err := conn.Recv()
		if err != nil {
			return nil, err
		}
		if o.Observe != nil {
			o.Observe(t, f)
		}
		switch f.Kind {
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
