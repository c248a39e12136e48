package main

import (
	"github.com/spf13/cobra"

	"github.com/twlab/twlab/internal/conduct"
	"github.com/twlab/twlab/internal/role"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/lab/netns"
	"github.com/twlab/twlab/measure/trace"
)

var backends = []lab.Backend{netns.Backend{}, netns.Machine{}}

// openTracer starts counting changes of state; where that cannot be, why says
// so, and close does nothing.
func openTracer(b lab.Backend) (t conduct.Tracer, why string, done func()) {
	if b.Name() == netns.MachineName {
		return nil, "on the machine's own stack the changes are not the lab's alone", func() {}
	}
	tracer, err := trace.Open()
	if err != nil {
		return nil, err.Error(), func() {}
	}
	return tracer, "", tracer.Close
}

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
