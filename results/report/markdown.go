package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/twlab/twlab/measure"
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
	for i, l := range r.Lines {
		if i == 0 {
			p.line("Line by line:")
			p.line("")
		}
		p.line("- %d: `%s`: %s", l.Number, l.String(), l.Outcome)
	}
	r.transitions(p)
	for _, c := range r.conditions() {
		p.line("- %s: %s", c.what, c.text)
	}
	if line := r.forecastLine(); line != "" {
		p.line("- forecast: %s", line)
	}
	for _, note := range s.Notes {
		p.line("- note: %s", note)
	}
	for _, warning := range r.Warnings {
		p.line("- warning: %s", warning)
	}
	return p.err
}

// transitions writes what was traced: a line for each stack and change.
func (r *Report) transitions(p *printer) {
	type change struct {
		stack    string
		from, to measure.State
	}
	var rows []change
	counts := map[change]map[string]int64{}
	for _, rec := range r.Run.Records {
		for _, s := range rec.Stacks {
			for _, t := range s.Transitions {
				c := change{s.Name, t.From, t.To}
				if counts[c] == nil {
					counts[c] = map[string]int64{}
					rows = append(rows, c)
				}
				counts[c][rec.Trial.Variant] += t.N
			}
		}
	}
	if len(rows) == 0 {
		return
	}
	place := func(s measure.State) int { return slices.Index(measure.States, s) }
	slices.SortFunc(rows, func(a, b change) int {
		return cmp.Or(cmp.Compare(a.stack, b.stack), cmp.Compare(place(a.from), place(b.from)), cmp.Compare(place(a.to), place(b.to)))
	})
	header := table.Row{"changes of state"}
	configs := []table.ColumnConfig{}
	for i, v := range r.Variants {
		header = append(header, v.Name)
		configs = append(configs, table.ColumnConfig{Number: i + 2, Align: text.AlignRight})
	}
	t := table.NewWriter()
	t.AppendHeader(header)
	t.SetColumnConfigs(configs)
	for _, c := range rows {
		cells := table.Row{fmt.Sprintf("%s: %s to %s", c.stack, c.from, c.to)}
		for _, v := range r.Variants {
			cells = append(cells, thousands(counts[c][v.Name]))
		}
		t.AppendRow(cells)
	}
	p.line("%s", t.RenderMarkdown())
	p.line("")
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
