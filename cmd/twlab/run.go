package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/twlab/twlab/internal/conduct"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/results/report"
	"github.com/twlab/twlab/scenarios"
)

type runFlags struct {
	planFlags
	format string
	dir    string
	quiet  bool
}

func newRun(e env) *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run NAME|FILE...",
		Short: "Run scenarios and report what was measured",
		Long: `Run scenarios, built-in ones by name or files of your own, and report what was measured.

Records land in a directory as each trial ends, twlab-runs/NAME-TIME or the one given
with -o; twlab report DIR shows them again.

Exit status: 0 every expectation held, 1 could not run, 2 wrong use, 3 an expectation
failed, 130 interrupted.`,
		Example: `  twlab run keepalive
  twlab run keepalive --set traffic.rate=500/s --set link=loopback
  twlab run keepalive --variant keepalive --expect 'client.reuse_ratio >= 0.99'
  twlab run my.yaml --format json -o out`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE:              func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), e, args) },
	}
	f.register(c)
	registerFormat(c, &f.format)
	c.Flags().StringVarP(&f.dir, "output", "o", "", "store records in this `directory` instead of twlab-runs/NAME-TIME; it must be new or empty")
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "show no progress")
	return c
}

func (f *runFlags) run(ctx context.Context, e env, names []string) error {
	out, err := report.Find(f.format)
	if err != nil {
		return usage(err)
	}
	plans, err := f.plans(names)
	if err != nil {
		return err
	}
	if f.dir != "" && len(plans) > 1 {
		return usage(errors.New("-o names one directory, and there are several scenarios: run them one by one, or leave -o out"))
	}
	b, err := backend()
	if err != nil {
		return err
	}
	for _, p := range plans { // before anything is built
		if err := conduct.Check(p, b); err != nil {
			return err
		}
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	failed := error(nil)
	for _, p := range plans {
		err := f.runOne(ctx, e, p, b, out)
		var s *statusError
		if errors.As(err, &s) && s.status == statusFailed {
			failed = err
			continue
		}
		if err != nil {
			return err
		}
	}
	return failed
}

func (f *runFlags) runOne(ctx context.Context, e env, p *scenarios.Plan, b lab.Backend, out report.Format) error {
	started := time.Now()
	dir := f.dir
	if dir == "" {
		dir = filepath.Join("twlab-runs", p.Scenario.Name+"-"+started.UTC().Format("20060102T150405.000Z"))
	}
	store, err := results.Create(dir, results.Header{Schema: results.Schema, Twlab: version(), Started: started.UTC(), Plan: p})
	if errors.Is(err, results.ErrExists) {
		return usage(err)
	}
	if err != nil {
		return err
	}
	watch := newProgress(e, p, f.quiet)
	err = conduct.Run(ctx, p, conduct.Options{Backend: b, Store: store, Version: version(), Observe: watch.observe})
	watch.stop()
	if closed := store.Close(); err == nil {
		err = closed
	}
	stored, _ := results.Open(dir)
	kept := "no trial had ended, nothing is kept"
	if stored != nil {
		kept = fmt.Sprintf("the records of ended trials (%d of %d) are in %s", len(stored.Records), len(p.Trials), dir)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return &statusError{status: statusInterrupted, err: fmt.Errorf("interrupted: %s", kept)}
	case err != nil && stored != nil:
		return fmt.Errorf("%w; %s", err, kept)
	case err != nil:
		return err
	}
	return writeReport(e, dir, out)
}
