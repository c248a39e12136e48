package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/twlab/twlab/lab"
)

// env is what a command may touch.
type env struct {
	args     []string
	in       io.Reader
	out, err io.Writer
}

// The exit statuses.
const (
	statusHeld        = 0
	statusCouldNotRun = 1
	statusUsage       = 2
	statusFailed      = 3 // an expectation
	statusInterrupted = 130
)

// statusError is an error with the status that main exits with. silent ones
// have been told already.
type statusError struct {
	status int
	err    error
	silent bool
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// usage marks an error as the caller's: status 2.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &statusError{status: statusUsage, err: err}
}

// run is main without the exit.
func run(ctx context.Context, e env) int {
	root := newRoot(e)
	root.SetArgs(e.args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return statusHeld
	}
	var s *statusError
	if !errors.As(err, &s) {
		s = &statusError{status: statusCouldNotRun, err: err}
	}
	if !s.silent {
		_, _ = fmt.Fprintf(e.err, "twlab: %s\n", strings.ReplaceAll(s.err.Error(), "\n", "\ntwlab: "))
	}
	return s.status
}

func newRoot(e env) *cobra.Command {
	root := &cobra.Command{
		Use:   "twlab",
		Short: "A lab for TCP TIME_WAIT and every other TCP state",
		Long: `twlab makes TCP sockets enter TIME_WAIT and every other state on demand, in namespaces
of its own, and measures what keepalive and sysctls do to them on this kernel. It needs
no root and changes nothing on the machine.

Begin with: twlab run keepalive`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(e.in)
	root.SetOut(e.out)
	root.SetErr(e.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage(fmt.Errorf("%w; see %s --help", err, cmd.CommandPath()))
	})
	root.AddCommand(newRun(e), newPlan(e), newList(e), newShow(e), newExplain(e), newKnobs(e), newSchema(e), newReport(e), newCompare(e), newBaseline(e), newTrend(e), newVersion(e))
	if role := newRole(e); role != nil {
		root.AddCommand(role)
	}
	markUsage(root)
	return root
}

// markUsage gives wrong arguments, of any command, the status of wrong use.
func markUsage(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if err == nil {
				return nil
			}
			return usage(fmt.Errorf("%w; see %s --help", err, cmd.CommandPath()))
		}
	}
	for _, sub := range c.Commands() {
		markUsage(sub)
	}
}

// findBackend returns the backend that --lab names; see the files for each OS.
func findBackend(name string) (lab.Backend, error) {
	var names []string
	for _, b := range backends {
		if b.Name() == name {
			return b, nil
		}
		names = append(names, b.Name())
	}
	if len(names) == 0 {
		return nil, errors.New("running a scenario needs Linux; list, show, plan and report work here")
	}
	return nil, usage(fmt.Errorf("--lab %s: write one of %s", name, strings.Join(names, ", ")))
}

// interruptible returns a context that ends with the first SIGINT or SIGTERM.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}
