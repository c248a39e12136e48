package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/results/report"
)

func newReport(e env) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "report DIR",
		Short: "Report a stored run again",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			out, err := report.Find(format)
			if err != nil {
				return usage(err)
			}
			return writeReport(e, args[0], out)
		},
	}
	registerFormat(c, &format)
	return c
}

func registerFormat(c *cobra.Command, format *string) {
	var names []string
	for _, f := range report.Formats {
		names = append(names, f.Name)
	}
	c.Flags().StringVar(format, "format", "text", "one of "+strings.Join(names, ", "))
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
}

// writeReport reads a stored run and reports it; the error is about a failed
// expectation, or about the run.
func writeReport(e env, dir string, out report.Format) error {
	run, err := results.Open(dir)
	if err != nil {
		return err
	}
	r := report.New(run)
	if err := out.Write(e.out, r); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := stepSummary(out, func(md report.Format, w *os.File) error { return md.Write(w, r) }); err != nil {
		return err
	}
	if r.Verdict == results.Failed {
		return &statusError{status: statusFailed, err: errors.New("an expectation failed"), silent: true}
	}
	return nil
}
