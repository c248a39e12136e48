package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twlab/twlab/internal/suggest"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/results/report"
)

func newExplain(e env) *cobra.Command {
	var names []string
	for _, s := range measure.States {
		names = append(names, s.String())
	}
	return &cobra.Command{
		Use:       "explain STATE|all",
		Short:     "Say what a TCP state is, what a heap of them means, and what helps",
		Args:      cobra.ExactArgs(1),
		ValidArgs: append(names, "all"),
		RunE: func(_ *cobra.Command, args []string) error {
			list := measure.Explanations
			if !strings.EqualFold(args[0], "all") {
				x, ok := measure.Explain(args[0])
				if !ok {
					return usage(fmt.Errorf("no TCP state is called %s%s", args[0], suggest.For(strings.ToUpper(args[0]), names)))
				}
				list = []measure.Explanation{x}
			}
			var b strings.Builder
			if len(list) > 1 {
				b.WriteString(measure.Diagram + "\n")
			}
			for i, x := range list {
				if i > 0 {
					b.WriteString("\n")
				}
				explain(&b, x)
			}
			_, err := fmt.Fprint(e.out, b.String())
			return err
		},
	}
}

// explainWidth is the most columns that an explanation takes.
const explainWidth = 98

func explain(b *strings.Builder, x measure.Explanation) {
	fmt.Fprintf(b, "%s\n", x.State)
	calls := fmt.Sprintf("%s in RFC 9293, %s in the kernel", x.RFC, x.Kernel)
	if len(x.Also) > 0 {
		calls += "; also " + strings.Join(x.Also, ", ")
	}
	for _, line := range []struct{ what, text string }{
		{"called", calls},
		{"is", x.Is},
		{"comes", x.In},
		{"leaves", x.Out},
		{"side", x.Side},
		{"lasts", x.Lasts},
		{"a heap", x.Heap},
		{"helps", x.Helps},
		{"see", "twlab run " + strings.Join(x.Scenarios, ", ")},
	} {
		_ = report.Wrap(b, explainWidth, fmt.Sprintf("  %-8s ", line.what), line.text) // a Builder takes everything
	}
}
