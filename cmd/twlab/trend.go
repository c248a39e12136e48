package main

import (
	"encoding/csv"
	"fmt"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/twlab/twlab/internal/suggest"
	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/results/metric"
)

func newTrend(e env) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "trend METRIC DIR...",
		Short: "Show a metric over many runs, oldest first",
		Example: `  twlab trend client.reuse_ratio twlab-runs/*
  twlab trend client.time_wait.peak twlab-runs/* --format csv`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			name := args[0]
			if _, ok := metric.Lookup(name); !ok {
				return usage(fmt.Errorf("no metric is called %s%s", name, suggest.For(name, metric.Names())))
			}
			var runs []*results.Run
			for _, dir := range args[1:] {
				run, err := results.Open(runDir(dir))
				if err != nil { // one that broke off must not hide the others
					_, _ = fmt.Fprintf(e.err, "twlab: left out: %v\n", err)
					continue
				}
				runs = append(runs, run)
			}
			if len(runs) == 0 {
				return fmt.Errorf("none of the %d directories holds a run", len(args)-1)
			}
			slices.SortStableFunc(runs, func(a, b *results.Run) int { return a.Started.Compare(b.Started) })
			rows := [][]string{{"started", "twlab", "kernel", "scenario", "variant", "trials", "center", "low", "high"}}
			number := func(v *float64) string {
				if v == nil {
					return ""
				}
				return strconv.FormatFloat(*v, 'g', 6, 64)
			}
			for _, run := range runs {
				for _, v := range run.Summarize() {
					sum, ok := v.Samples[name].Summary()
					if !ok {
						continue
					}
					env := run.Records[0].Environment
					rows = append(rows, []string{
						run.Started.Format(time.RFC3339), env.Twlab, env.Kernel, run.Plan.Scenario.Name, v.Name,
						strconv.Itoa(v.Trials), number(&sum.Center), number(sum.Low), number(sum.High),
					})
				}
			}
			if len(rows) == 1 {
				return fmt.Errorf("none of the %d runs has %s", len(runs), name)
			}
			switch format {
			case "csv":
				return csv.NewWriter(e.out).WriteAll(rows)
			case "text":
				w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
				for _, row := range rows {
					for _, cell := range row {
						_, _ = fmt.Fprint(w, cell, "\t")
					}
					_, _ = fmt.Fprintln(w)
				}
				return w.Flush()
			}
			return usage(fmt.Errorf("--format %s: write text or csv", format))
		},
	}
	c.Flags().StringVar(&format, "format", "text", "text or csv")
	return c
}
