//go:build !linux

package main

import (
	"github.com/spf13/cobra"

	"github.com/twlab/twlab/lab"
)

var backends []lab.Backend

func newRole(env) *cobra.Command { return nil }
