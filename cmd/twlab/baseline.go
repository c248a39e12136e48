package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/twlab/twlab/results"
)

// baselines is where twlab baseline keeps runs.
const baselines = "twlab-baselines"

var baselineName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

func checkBaseline(name string) error {
	if !baselineName.MatchString(name) {
		return usage(fmt.Errorf("baseline's name %q: write letters, digits, dots, - and _", name))
	}
	return nil
}

// runDir is the directory of a run that is given by directory, or as the name
// of a baseline.
func runDir(name string) string {
	if !exists(name) && baselineName.MatchString(name) {
		if saved := filepath.Join(baselines, name); exists(saved) {
			return saved
		}
	}
	return name
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func newBaseline(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "baseline",
		Short: "Keep runs by name, to compare others with",
		Long:  "Keep runs by name, below " + baselines + ", to compare others with: twlab compare NAME DIR, twlab run SCENARIO --baseline NAME.",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(&cobra.Command{
		Use:   "save NAME DIR",
		Short: "Keep a run; one of that name is replaced",
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkBaseline(args[0]); err != nil {
				return err
			}
			run, err := results.Open(args[1])
			if err != nil {
				return err
			}
			if err := results.Copy(args[1], filepath.Join(baselines, args[0])); err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.out, "%s: %d trials of %s\n", filepath.Join(baselines, args[0]), len(run.Records), run.Plan.Scenario.Name)
			return err
		},
	}, &cobra.Command{
		Use:   "list",
		Short: "List the runs that are kept",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			dirs, err := os.ReadDir(baselines)
			if err != nil && !os.IsNotExist(err) {
				return err
			}
			w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
			for _, d := range dirs {
				run, err := results.Open(filepath.Join(baselines, d.Name()))
				if err != nil {
					_, _ = fmt.Fprintf(w, "%s\t%v\n", d.Name(), err)
					continue
				}
				_, _ = fmt.Fprintf(w, "%s\t%s\t%d trials\t%s\n", d.Name(), run.Plan.Scenario.Name, len(run.Records), run.Started.Format(time.RFC3339))
			}
			return w.Flush()
		},
	}, &cobra.Command{
		Use:   "rm NAME",
		Short: "Forget a run that is kept",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkBaseline(args[0]); err != nil {
				return err
			}
			dir := filepath.Join(baselines, args[0])
			if !exists(dir) {
				return usage(fmt.Errorf("no baseline is called %s: twlab baseline list shows all", args[0]))
			}
			return results.Remove(dir)
		},
	})
	return c
}
