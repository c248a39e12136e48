package report

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/twlab/twlab/results/compare"
	"github.com/twlab/twlab/results/metric"
	"github.com/twlab/twlab/results/stats"
)

// shown are the rows that people read: what changed, and what is watched.
func shown(c *compare.Comparison) []compare.Row {
	var out []compare.Row
	for _, r := range c.Rows {
		if def, _ := metric.Lookup(r.Metric); def.Quiet && !r.Gated {
			continue
		}
		if r.Gated && r.Change != compare.Same || r.Change != compare.Same && r.Change != compare.Noise {
			out = append(out, r)
		}
	}
	return out
}

// withDoubt writes a centre and how far its interval reaches, as benchstat does:
// "8.3 ms ± 12 %"; "± ?" where too few trials tell none.
func withDoubt(s stats.Sample, name string) string {
	sum, ok := s.Summary()
	if !ok {
		return "-"
	}
	out := format(sum.Center, name)
	switch {
	case sum.Low == nil || sum.High == nil:
		return out + " ± ?"
	case *sum.Low == *sum.High || sum.Center == 0:
		return out
	}
	far := max(sum.Center-*sum.Low, *sum.High-sum.Center) / sum.Center
	return fmt.Sprintf("%s ± %.0f %%", out, far*100)
}

func delta(r compare.Row) string {
	switch {
	case r.Change == compare.Noise:
		return "~"
	case r.Delta == nil:
		return "from 0"
	}
	return fmt.Sprintf("%+.2f %%", *r.Delta*100)
}

// proof says how sure a change is.
func proof(r compare.Row) string {
	n := fmt.Sprintf("n=%d", len(r.After.Values))
	if len(r.Before.Values) != len(r.After.Values) {
		n = fmt.Sprintf("n=%d+%d", len(r.Before.Values), len(r.After.Values))
	}
	switch {
	case r.Test.Exact:
		return "exact " + n
	case !r.Test.Enough:
		return "too few " + n
	}
	return fmt.Sprintf("p=%.3f %s", r.Corrected, n)
}

func change(r compare.Row) string {
	if r.Change == compare.Noise {
		return ""
	}
	return string(r.Change)
}

var compareHeader = []string{"", "before", "after", "delta", "", ""}

// groups are the shown rows by variant, as cells of a table.
func groups(c *compare.Comparison) (names []string, cells map[string][][]string) {
	cells = map[string][][]string{}
	for _, r := range shown(c) {
		if cells[r.Variant] == nil {
			names = append(names, r.Variant)
		}
		label := "  " + r.Metric
		if r.Gated {
			label = "* " + r.Metric
		}
		cells[r.Variant] = append(cells[r.Variant], []string{
			label, withDoubt(r.Before, r.Metric), withDoubt(r.After, r.Metric), delta(r), change(r), proof(r),
		})
	}
	return names, cells
}

// conclusion sums a comparison up, in lines.
func conclusion(c *compare.Comparison) []string {
	counts := map[compare.Change]int{}
	for _, r := range c.Rows {
		counts[r.Change]++
	}
	alarms := c.Alarms()
	out := []string{fmt.Sprintf("%d metrics: %d the same, %d may be noise, %d better, %d worse, %d different; %d watched (*), %d of those worse",
		len(c.Rows), counts[compare.Same], counts[compare.Noise], counts[compare.Better], counts[compare.Worse], counts[compare.Different],
		c.Watched, len(alarms))}
	for _, g := range c.Gates {
		switch {
		case g.Failed:
			out = append(out, "FAILED "+g.Gate+": "+g.Why)
		case g.Undecided != "":
			out = append(out, "undecided "+g.Gate+": "+g.Undecided)
		default:
			out = append(out, "passed "+g.Gate)
		}
	}
	return out
}

func compareText(w io.Writer, c *compare.Comparison) error {
	p := &printer{w: w}
	p.wrap("", c.Scenario+": "+c.Before+" -> "+c.After)
	p.line("")
	for _, o := range c.Obstacles {
		p.wrap("not comparable: ", o)
	}
	if len(c.Conditions) == 0 {
		p.line("both ran under the same conditions")
	} else {
		p.line("what differed between them")
		for _, d := range c.Conditions {
			p.wrap("  "+d.What+": ", d.Before+" -> "+d.After)
		}
	}
	p.line("")
	names, cells := groups(c)
	var all [][]string
	for _, name := range names {
		all = append(append(all, []string{name, "", "", "", "", ""}), cells[name]...)
	}
	if len(all) > 0 {
		render(p, compareHeader, all)
	}
	for _, a := range c.Alone {
		p.wrap("left out: ", a)
	}
	for _, n := range c.Notes {
		p.wrap("warning: ", n)
	}
	for _, line := range conclusion(c) {
		p.wrap("", line)
	}
	return p.err
}

func compareMarkdown(w io.Writer, c *compare.Comparison) error {
	p := &printer{w: w}
	p.line("### %s: before and after", c.Scenario)
	p.line("")
	for _, line := range conclusion(c) {
		p.line("- %s", line)
	}
	for _, o := range c.Obstacles {
		p.line("- **not comparable:** %s", o)
	}
	for _, d := range c.Conditions {
		p.line("- `%s`: %s -> %s", d.What, d.Before, d.After)
	}
	for _, a := range append(c.Alone, c.Notes...) {
		p.line("- %s", a)
	}
	p.line("")
	names, cells := groups(c)
	for _, name := range names {
		t := table.NewWriter()
		t.AppendHeader(table.Row{name, "before", "after", "delta", "", ""})
		t.SetColumnConfigs([]table.ColumnConfig{{Number: 2, Align: text.AlignRight}, {Number: 3, Align: text.AlignRight}, {Number: 4, Align: text.AlignRight}})
		for _, row := range cells[name] {
			cells := table.Row{}
			for _, cell := range row {
				cells = append(cells, strings.TrimSpace(cell))
			}
			t.AppendRow(cells)
		}
		p.line("%s", t.RenderMarkdown())
		p.line("")
	}
	return p.err
}

type jsonRow struct {
	Variant string           `json:"variant"`
	Metric  string           `json:"metric"`
	Unit    string           `json:"unit"`
	Better  metric.Direction `json:"better"`
	Gated   bool             `json:"gated"`
	Change  compare.Change   `json:"change"`
	Before  jsonSide         `json:"before"`
	After   jsonSide         `json:"after"`
	Delta   *float64         `json:"delta"` // relative; null from 0
	P       float64          `json:"p"`
	// Corrected is P for the number of tests among gated metrics.
	Corrected float64 `json:"p_corrected"`
	Exact     bool    `json:"exact"`
	Enough    bool    `json:"enough_trials"`
}

type jsonSide struct {
	Values []float64 `json:"values"`
	Center float64   `json:"center"`
	Low    *float64  `json:"low"`
	High   *float64  `json:"high"`
}

func side(s stats.Sample) jsonSide {
	sum, _ := s.Summary()
	return jsonSide{s.Values, sum.Center, sum.Low, sum.High}
}

func compareJSON(w io.Writer, c *compare.Comparison) error {
	doc := struct {
		Scenario   string              `json:"scenario"`
		Before     string              `json:"before"`
		After      string              `json:"after"`
		Failed     bool                `json:"failed"`
		Conditions []compare.Condition `json:"conditions"`
		Obstacles  []string            `json:"obstacles"`
		Gates      []compare.Outcome   `json:"gates"`
		Alarms     int                 `json:"alarms"`
		Rows       []jsonRow           `json:"rows"`
		Alone      []string            `json:"alone"`
		Warnings   []string            `json:"warnings"`
	}{
		c.Scenario, c.Before, c.After, c.Failed(), append([]compare.Condition{}, c.Conditions...), append([]string{}, c.Obstacles...),
		append([]compare.Outcome{}, c.Gates...), len(c.Alarms()),
		[]jsonRow{},
		append([]string{}, c.Alone...), append([]string{}, c.Notes...),
	}
	for _, r := range c.Rows {
		def, _ := metric.Lookup(r.Metric)
		doc.Rows = append(doc.Rows, jsonRow{
			Variant: r.Variant, Metric: r.Metric, Unit: def.Unit, Better: def.Better, Gated: r.Gated, Change: r.Change, Before: side(r.Before),
			After: side(r.After), Delta: r.Delta, P: r.Test.P, Corrected: r.Corrected, Exact: r.Test.Exact, Enough: r.Test.Enough,
		})
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(doc)
}

func compareCSV(w io.Writer, c *compare.Comparison) error {
	lines := [][]string{{"scenario", "variant", "metric", "unit", "better", "gated", "change", "before", "after", "delta", "p", "p_corrected", "trials_before", "trials_after"}}
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	for _, r := range c.Rows {
		def, _ := metric.Lookup(r.Metric)
		a, b := r.Values()
		d := ""
		if r.Delta != nil {
			d = number(*r.Delta)
		}
		lines = append(lines, []string{
			c.Scenario, r.Variant, r.Metric, def.Unit, string(def.Better), strconv.FormatBool(r.Gated), string(r.Change), number(a), number(b), d,
			number(r.Test.P), number(r.Corrected), strconv.Itoa(len(r.Before.Values)), strconv.Itoa(len(r.After.Values)),
		})
	}
	return csv.NewWriter(w).WriteAll(lines)
}
