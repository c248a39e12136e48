package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// writeMarkdown writes what a pull request's comment or an issue shows.
func writeMarkdown(w io.Writer, r *Report) error {
	p := &printer{w: w}
	s := r.Run.Plan.Scenario
	p.line("### %s: %s", s.Name, s.Question)
	p.line("")
	if r.Answer != "" {
		p.line("%s", strings.Join(strings.Fields(r.Answer), " "))
		p.line("")
	}
	p.line("%s", r.verdictLine())
	p.line("")
	for _, o := range r.Expectations {
		if !o.Held {
			p.line("- not held: `%s`: %s", o.Text, o.Why)
		}
	}
	if r.Verdict == "failed" {
		p.line("")
	}
	rows, zero := r.rows()
	t := table.NewWriter()
	header := table.Row{"metric"}
	configs := []table.ColumnConfig{}
	for i, v := range r.Variants {
		header = append(header, v.Name)
		configs = append(configs, table.ColumnConfig{Number: i + 2, Align: text.AlignRight})
	}
	t.AppendHeader(header)
	t.SetColumnConfigs(configs)
	for _, row := range rows {
		label := strings.TrimSpace(row.label)
		if row.head {
			label = "**" + label + "**"
		}
		cells := table.Row{label}
		for i := range r.Variants {
			if row.head {
				cells = append(cells, "")
			} else {
				cells = append(cells, row.cells[i])
			}
		}
		t.AppendRow(cells)
	}
	p.line("%s", t.RenderMarkdown())
	p.line("")
	for _, z := range zero {
		p.line("Zero on the %s: %s.", z.host, strings.Join(z.names, ", "))
		p.line("")
	}
	for _, c := range r.conditions() {
		p.line("- %s: %s", c.what, c.text)
	}
	if line := r.forecastLine(); line != "" {
		p.line("- forecast: %s", line)
	}
	for _, warning := range r.Warnings {
		p.line("- warning: %s", warning)
	}
	return p.err
}

// verdictLine says what the expectations came to.
func (r *Report) verdictLine() string {
	if len(r.Expectations) == 0 {
		return "verdict: none (nothing was expected of these variants)"
	}
	held := 0
	for _, o := range r.Expectations {
		if o.Held {
			held++
		}
	}
	return fmt.Sprintf("verdict: %s (%d of %d expectations)", r.Verdict, held, len(r.Expectations))
}
