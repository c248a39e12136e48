package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/results/compare"
	"github.com/twlab/twlab/results/report"
)

// compareFlags shape a comparison, the same for compare and run.
type compareFlags struct {
	failOn      []string
	force       bool
	otherKernel bool
}

func (f *compareFlags) register(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.failOn, "fail-on", nil, "end with status 3 on this change, such as 'client.reuse_ratio worse by 1%'")
	c.Flags().BoolVar(&f.force, "force", false, "compare what cannot be compared, and say why not")
	c.Flags().BoolVar(&f.otherKernel, "other-kernel", false, "the kernels may differ: that is the question")
}

func (f *compareFlags) options() (compare.Options, error) {
	o := compare.Options{OtherKernel: f.otherKernel}
	for _, text := range f.failOn {
		g, err := compare.ParseGate(text)
		if err != nil {
			return o, usage(err)
		}
		o.Gates = append(o.Gates, g)
	}
	return o, nil
}

func newCompare(e env) *cobra.Command {
	var f compareFlags
	var format string
	c := &cobra.Command{
		Use:   "compare BEFORE [AFTER]",
		Short: "Say what changed between two runs, and whether it could be chance",
		Long: `Say what changed between two runs, and whether it could be chance; with one run, what
differs between its variants and their baseline, the first one.

BEFORE and AFTER are directories of runs, or names that twlab baseline saved. Exact
metrics are compared exactly, others by the Mann-Whitney U-test, which needs at least
4 trials on each side (--repeat when they are run; 6 or more tell more). The metrics
marked * are watched: those of --fail-on or, without it, those in which a regression of
connection reuse shows; their p is corrected for their number (Holm).

Exit status: 0 no gate failed, 1 cannot be compared, 2 wrong use, 3 a gate failed.`,
		Example: `  twlab compare twlab-runs/keepalive-20261122T190712.667Z twlab-runs/keepalive-20261122T191501.102Z
  twlab compare main out --fail-on 'client.reuse_ratio worse by 1%' --format junit`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			out, err := report.Find(format)
			if err != nil {
				return usage(err)
			}
			return f.compare(e, args, out)
		},
	}
	f.register(c)
	registerFormat(c, &format)
	return c
}

// compare compares stored runs and writes what came of it.
func (f *compareFlags) compare(e env, names []string, out report.Format) error {
	o, err := f.options()
	if err != nil {
		return err
	}
	var runs []*results.Run
	for _, name := range names {
		run, err := results.Open(runDir(name))
		if err != nil {
			return err
		}
		runs = append(runs, run)
	}
	var c *compare.Comparison
	if len(runs) == 1 {
		c, err = compare.Variants(runs[0], o)
	} else {
		c, err = compare.Runs(runs[0], runs[1], o)
	}
	if err != nil {
		return usage(err)
	}
	if len(c.Obstacles) > 0 && !f.force {
		var all []error
		for _, why := range c.Obstacles {
			all = append(all, errors.New(why))
		}
		return fmt.Errorf("these cannot be compared (--force does it all the same): %w", errors.Join(all...))
	}
	if err := out.Compare(e.out, c); err != nil {
		return fmt.Errorf("write the comparison: %w", err)
	}
	if err := stepSummary(out, func(md report.Format, w *os.File) error { return md.Compare(w, c) }); err != nil {
		return err
	}
	if c.Failed() {
		return &statusError{status: statusFailed, err: errors.New("a gate failed"), silent: true}
	}
	return nil
}

// stepSummary adds Markdown to the summary of a GitHub job, where there is one and
// format github was asked for.
func stepSummary(out report.Format, write func(md report.Format, w *os.File) error) error {
	name := os.Getenv("GITHUB_STEP_SUMMARY")
	if out.Name != "github" || name == "" {
		return nil
	}
	md, err := report.Find("md")
	if err != nil {
		return err
	}
	w, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("GITHUB_STEP_SUMMARY: %w", err)
	}
	return errors.Join(write(md, w), w.Close())
}
