package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twlab/twlab/scenarios"
)

func newShow(e env) *cobra.Command {
	var full bool
	c := &cobra.Command{
		Use:               "show NAME|FILE",
		Short:             "Tell what a scenario asks, does and expects",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := scenarios.Find(args[0], full)
			if err != nil {
				return usage(err)
			}
			var b strings.Builder
			fmt.Fprintf(&b, "%s: %s\n\n%s\n\nvariants:\n", s.Name, s.Question, strings.TrimSpace(s.Story))
			widest := 0
			for _, name := range s.VariantNames() {
				widest = max(widest, len(name))
			}
			varies := s.Variations()
			for i, name := range s.VariantNames() {
				line := fmt.Sprintf("  %-*s", widest, name)
				for _, v := range varies {
					if v.Values[i] != "" {
						line += "  " + v.Path + "=" + v.Values[i]
					}
				}
				fmt.Fprintln(&b, strings.TrimRight(line, " "))
			}
			b.WriteString("\nexpected:\n")
			for _, x := range s.Expect {
				fmt.Fprintf(&b, "  %s\n", x.Text)
			}
			_, err = fmt.Fprint(e.out, b.String())
			return err
		},
	}
	c.Flags().BoolVar(&full, "full", false, "the long form")
	return c
}
