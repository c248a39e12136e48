package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
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
	compareFlags
	baseline string
	format   string
	dir      string
	jobs     int
	quiet    bool
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
or a gate (--fail-on) failed, 130 interrupted.`,
		Example: `  twlab run keepalive
  twlab run keepalive --set traffic.rate=500/s --set link=loopback
  twlab run keepalive --variant keepalive --expect 'client.reuse_ratio >= 0.99'
  twlab run my.yaml --format json -o out`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE:              func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), e, args) },
	}
	f.planFlags.register(c)
	f.compareFlags.register(c)
	c.Flags().StringVar(&f.baseline, "baseline", "", "compare with this run afterwards: a directory, or a `name` of twlab baseline")
	registerFormat(c, &f.format)
	c.Flags().StringVarP(&f.dir, "output", "o", "", "store records in this `directory` instead of twlab-runs/NAME-TIME; it must be new or empty")
	c.Flags().IntVar(&f.jobs, "jobs", 0, fmt.Sprintf("most trials side by side, of scenarios that only count; 0: %d for each CPU", conduct.JobsPerCPU))
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "show no progress")
	return c
}

func (f *runFlags) run(ctx context.Context, e env, names []string) error {
	out, err := report.Find(f.format)
	if err != nil {
		return usage(err)
	}
	b, err := findBackend(f.lab)
	if err != nil {
		return err
	}
	plans, err := f.plans(names)
	if err != nil {
		return err
	}
	if err := f.checkBaseline(plans); err != nil {
		return err
	}
	if f.dir != "" && len(plans) > 1 {
		return usage(errors.New("-o names one directory, and there are several scenarios: run them one by one, or leave -o out"))
	}
	var left error // what cannot be run here, while the rest is
	var able []*scenarios.Plan
	for _, p := range plans { // before anything is built
		err := conduct.Check(p, b)
		var missing *lab.MissingProgram
		switch {
		case errors.As(err, &missing) && len(plans) > 1:
			left = errors.Join(left, err)
		case err != nil:
			return err
		default:
			able = append(able, p)
		}
	}
	if plans = able; len(plans) == 0 {
		return left
	}
	if f.jobs < 0 {
		return usage(fmt.Errorf("--jobs %d: not below 0", f.jobs))
	}
	started := time.Now()
	var jobs []conduct.Job
	defer func() {
		for _, j := range jobs {
			_ = j.Store.Close() // Append has synced what there is
		}
	}()
	for _, p := range plans {
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
		jobs = append(jobs, conduct.Job{Plan: p, Store: store})
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	tracer, untraced, untrace := openTracer(b)
	defer untrace()
	watch := newProgress(e, plans, f.quiet)
	err = conduct.Run(ctx, jobs, conduct.Options{
		Backend: b, Version: version(), Jobs: f.jobs, Observe: watch.observe, Tracer: tracer, Untraced: untraced,
	})
	watch.stop()
	if err != nil {
		return withKept(err, jobs)
	}
	var failed error
	for i, j := range jobs {
		if i > 0 && f.format == "text" {
			_, _ = fmt.Fprintln(e.out)
		}
		to := e
		if f.baseline != "" && !slices.Contains([]string{"text", "md", "github"}, f.format) {
			to.out = io.Discard // one document: the comparison
		}
		err := writeReport(to, j.Store.Dir, out)
		var s *statusError
		if errors.As(err, &s) && s.status == statusFailed {
			failed = err
			continue
		}
		if err != nil {
			return err
		}
	}
	if f.baseline != "" {
		if f.format == "text" {
			_, _ = fmt.Fprintln(e.out)
		}
		if err := f.compare(e, []string{f.baseline, jobs[0].Store.Dir}, out); err != nil {
			return err
		}
	}
	if left != nil {
		return left
	}
	return failed
}

// checkBaseline finds mistakes about the baseline before anything is run.
func (f *runFlags) checkBaseline(plans []*scenarios.Plan) error {
	if f.baseline == "" {
		if len(f.failOn) > 0 || f.force || f.otherKernel {
			return usage(errors.New("--fail-on, --force and --other-kernel are about a comparison: name what to compare with, --baseline"))
		}
		return nil
	}
	if len(plans) > 1 {
		return usage(errors.New("--baseline is one run, and there are several scenarios: run them one by one"))
	}
	if _, err := f.options(); err != nil {
		return err
	}
	if _, err := results.Open(runDir(f.baseline)); err != nil {
		return usage(fmt.Errorf("--baseline: %w", err))
	}
	return nil
}

// withKept adds to the error of a run what was kept of it, and where.
func withKept(err error, jobs []conduct.Job) error {
	var kept []string
	for _, j := range jobs {
		if run, e := results.Open(j.Store.Dir); e == nil {
			kept = append(kept, fmt.Sprintf("the records of ended trials (%d of %d) are in %s", len(run.Records), len(j.Plan.Trials), j.Store.Dir))
		}
	}
	where := strings.Join(kept, ", ")
	if where == "" {
		where = "no trial had ended, nothing is kept"
	}
	if errors.Is(err, context.Canceled) {
		return &statusError{status: statusInterrupted, err: fmt.Errorf("interrupted: %s", where)}
	}
	if len(kept) > 0 {
		return fmt.Errorf("%w; %s", err, where)
	}
	return err
}
