package main

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/twlab/twlab/lab"
)

func newKnobs(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "knobs",
		Short: "List the documented sysctls, with the machine's values",
		Long: `List the documented sysctls, with the machine's own values. --sysctl and scenarios take these by
their short names, and any other net.* sysctl by its full one. A stack's sysctl is set in
the lab alone; the kernel's cannot be.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(w, "name\tvalue here\tof a\tLinux\twhat it is") // Flush returns what went wrong
			for _, k := range lab.Knobs {
				value, err := lab.ReadSysctl(k.Name)
				switch {
				case errors.Is(err, os.ErrNotExist):
					value = "not on this kernel"
				case err != nil:
					value = "-"
				}
				versions := ""
				if k.Since != "" {
					versions = "from " + k.Since
				}
				if k.Until != "" {
					versions = "before " + k.Until
				}
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", k.Name, value, k.Scope, versions, k.Doc)
			}
			return w.Flush()
		},
	}
}
