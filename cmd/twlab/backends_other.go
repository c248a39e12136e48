//go:build !linux

package main

import (
	"github.com/spf13/cobra"

	"github.com/twlab/twlab/internal/conduct"
	"github.com/twlab/twlab/lab"
)

var backends []lab.Backend

func openTracer(lab.Backend) (conduct.Tracer, string, func()) {
	return nil, "that needs Linux", func() {}
}

func newRole(env) *cobra.Command { return nil }
