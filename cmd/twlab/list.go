package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/twlab/twlab/scenarios"
)

func newList(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the built-in scenarios",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
			for _, name := range scenarios.Names() {
				s, err := scenarios.Find(name, false)
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintf(w, "%s\t%s\n", s.Name, s.Question); err != nil {
					return err
				}
			}
			return w.Flush()
		},
	}
}
