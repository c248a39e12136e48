package main

import (
	"github.com/spf13/cobra"

	"github.com/twlab/twlab/scenarios"
)

func newSchema(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of scenario files, for editors",
		Long: `Print the JSON Schema of scenario files. Editors with a YAML language server complete and check
a file whose first line is

  # yaml-language-server: $schema=scenario.schema.json

after: twlab schema > scenario.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := e.out.Write(scenarios.Schema)
			return err
		},
	}
}
