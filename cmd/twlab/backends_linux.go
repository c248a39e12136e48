package main

import (
	"github.com/spf13/cobra"

	"github.com/twlab/twlab/internal/role"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/lab/netns"
)

var backends = []lab.Backend{netns.Backend{}, netns.Machine{}}

// newRole is the command of re-executed processes, not of people.
func newRole(e env) *cobra.Command {
	return &cobra.Command{
		Use:    "role NAME",
		Short:  "A part of a trial; started by twlab itself",
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return role.Main(cmd.Context(), args, e.in, e.out)
		},
	}
}
