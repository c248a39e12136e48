package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/results/metric"
	"github.com/twlab/twlab/scenarios"
	"github.com/twlab/twlab/scenarios/forecast"
)

// width is the most columns that a text report takes.
const width = 100

func writeText(w io.Writer, r *Report) error {
	p := &printer{w: w}
	s := r.Run.Plan.Scenario
	p.wrap("", s.Name+": "+s.Question)
	p.line("")
	for _, c := range r.conditions() {
		p.wrap(c.what+": ", c.text)
	}
	p.line("")
	r.tables(p)
	if len(r.Lines) > 0 {
		p.line("line by line (one trial each: differences below 10 %%, 10 sockets and 2.5 s are taken for noise)")
		for _, l := range r.Lines {
			p.wrap(fmt.Sprintf("  %3d  ", l.Number), l.String()+": "+l.Outcome)
		}
		p.line("")
	}
	r.verdict(p)
	if line := r.forecastLine(); line != "" {
		p.wrap("forecast: ", line)
	}
	for _, note := range s.Notes {
		p.wrap("note: ", note)
	}
	for _, warning := range r.Warnings {
		p.wrap("warning: ", warning)
	}
	if r.Run.Dir != "" {
		p.line("records: %s", r.Run.Dir)
	}
	return p.err
}

// printer keeps the first error, so that a report can be written as a list.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

// wrap writes text after a prefix, as wide as a report.
func (p *printer) wrap(prefix, s string) {
	if p.err == nil {
		p.err = Wrap(p.w, width, prefix, s)
	}
}

// Wrap writes text after a prefix, wrapped at so many columns, later lines
// indented below the first.
func Wrap(w io.Writer, columns int, prefix, s string) error {
	p := &printer{w: w}
	room := columns - len(prefix)
	line := ""
	flush := func() {
		p.line("%s%s", prefix, line)
		prefix = strings.Repeat(" ", len(prefix))
	}
	for word := range strings.FieldsSeq(s) {
		if line != "" && len(line)+1+len(word) > room {
			flush()
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	flush()
	return p.err
}

// A row of the table: a label and a cell for each variant.
type row struct {
	label string
	cells []string
	head  bool
}

func (r *Report) tables(p *printer) {
	rows, zero := r.rows()
	taken := 0
	for _, row := range rows {
		taken = max(taken, len(row.label))
	}
	for i, v := range r.Variants {
		col := len(v.Name)
		for _, row := range rows {
			if !row.head {
				col = max(col, len(row.cells[i]))
			}
		}
		taken += 2 + col
	}
	if taken > width {
		r.transposed(p)
		return
	}
	header := []string{""}
	var cells [][]string
	for _, v := range r.Variants {
		header = append(header, v.Name)
	}
	for _, row := range rows {
		cells = append(cells, append([]string{row.label}, row.cells...))
	}
	render(p, header, cells)
	for _, z := range zero {
		p.wrap("zero on the "+z.host+": ", strings.Join(z.names, ", "))
	}
	if len(zero) > 0 {
		p.line("")
	}
}

// defaultColumns tell most about variants that are too many for columns.
var defaultColumns = []string{"client.connections.opened", "client.requests.failed", "client.time_wait.peak", "server.time_wait.peak"}

// transposed has a row for each variant, and few metrics as columns, as many
// as fit.
func (r *Report) transposed(p *printer) {
	columns := r.Run.Plan.Scenario.Columns
	if len(columns) == 0 {
		columns = defaultColumns
	}
	cells := make([][]string, len(r.Variants))
	taken := 0
	for i, v := range r.Variants {
		cells[i] = []string{v.Name}
		taken = max(taken, len(v.Name))
	}
	header := []string{""}
	for _, name := range columns {
		parts := strings.Split(name, ".")
		col := 0
		for _, part := range parts {
			col = max(col, len(part))
		}
		figures := make([]string, len(r.Variants))
		for i, v := range r.Variants {
			figures[i] = r.cell(v, name)
			col = max(col, len(figures[i]))
		}
		if taken += 2 + col; taken > width && len(header) > 1 {
			break
		}
		header = append(header, strings.Join(parts, "\n"))
		for i := range cells {
			cells[i] = append(cells[i], figures[i])
		}
	}
	render(p, header, cells)
	p.line("all metrics: twlab report %s --format md (or csv, json)", r.Run.Dir)
	p.line("")
}

// cell writes a figure of a variant, "-" for one that is absent.
func (r *Report) cell(v results.VariantSummary, name string) string {
	value, ok := v.Value(name)
	if !ok {
		return "-"
	}
	return format(value, name)
}

// render writes a table without lines, the first column left, the others right.
func render(p *printer, header []string, cells [][]string) {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	configs := []table.ColumnConfig{}
	toRow := func(list []string) table.Row {
		out := table.Row{}
		for _, c := range list {
			out = append(out, c)
		}
		return out
	}
	for i := 1; i < len(header); i++ {
		configs = append(configs, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	t.SetColumnConfigs(configs)
	t.AppendHeader(toRow(header))
	for _, c := range cells {
		t.AppendRow(toRow(c))
	}
	for line := range strings.SplitSeq(t.Render(), "\n") {
		p.line("%s", strings.TrimRight(line, " "))
	}
	p.line("")
}

// zeros are the metrics of a host that are zero in every variant.
type zeros struct {
	host  string
	names []string
}

// rows are what varies, then the metrics by host. Those that are zero in every
// variant come apart; a state is named once.
func (r *Report) rows() (rows []row, zero []zeros) {
	rows = r.variations()
	for _, host := range r.hosts() {
		names := r.metricsOf(host)
		if len(names) == 0 {
			continue
		}
		rows = append(rows, row{label: host, head: true})
		z := zeros{host: host}
		seen := map[string]bool{} // states of which a row is not zero
		for _, name := range names {
			if def, _ := metric.Lookup(name); def.Quiet && !r.speaksOf(name) {
				continue
			}
			cells := make([]string, len(r.Variants))
			allZero := true
			for i, v := range r.Variants {
				value, ok := v.Value(name)
				cells[i] = r.cell(v, name)
				allZero = allZero && (!ok || value == 0)
			}
			l := label(name)
			state, _, _ := strings.Cut(l, " ")
			if slices.Contains(metric.States, strings.ToLower(state)) {
				if allZero && !seen[state] && strings.HasSuffix(l, " peak") {
					z.names = append(z.names, state)
				}
				seen[state] = seen[state] || !allZero
			} else if allZero {
				z.names = append(z.names, l)
			}
			foreseen := r.foreseen(name)
			if !allZero || foreseen != nil && slices.ContainsFunc(foreseen, func(s string) bool { return s != "0" && s != "" }) {
				rows = append(rows, row{label: "  " + l, cells: cells})
				if foreseen != nil {
					rows = append(rows, row{label: "    forecast", cells: foreseen})
				}
			}
		}
		rows = constant(rows)
		if len(z.names) > 0 {
			zero = append(zero, z)
		}
	}
	return rows, zero
}

// speaksOf says whether the scenario's claims, columns or answer name a metric.
func (r *Report) speaksOf(name string) bool {
	s := r.Run.Plan.Scenario
	return slices.Contains(s.Columns, name) || strings.Contains(s.Answer, name) ||
		slices.ContainsFunc(s.Expect, func(e scenarios.Expectation) bool { return strings.Contains(e.Text, name) })
}

// foreseen are the forecasts of a metric; nil where no variant has one.
func (r *Report) foreseen(name string) []string {
	cells := make([]string, len(r.Variants))
	some := false
	for i, f := range r.Forecasts {
		if v, ok := f.Figures[name]; ok {
			cells[i] = format(v, name)
			some = true
		}
	}
	if !some {
		return nil
	}
	return cells
}

// constant makes one row of peak, mean and end where they are the same
// everywhere, as for listening sockets.
func constant(rows []row) []row {
	for i := 0; i+2 < len(rows); i++ {
		name, peak := strings.CutSuffix(rows[i].label, " peak")
		if peak && rows[i+2].label == name+" end" && slices.Equal(rows[i].cells, rows[i+1].cells) && slices.Equal(rows[i].cells, rows[i+2].cells) {
			rows[i].label = name
			rows = slices.Delete(rows, i+1, i+3)
		}
	}
	return rows
}

// label writes "client.time_wait.peak" as "TIME_WAIT peak".
func label(name string) string {
	_, rest, _ := strings.Cut(name, ".")
	first, more, found := strings.Cut(rest, ".")
	if slices.Contains(metric.States, first) {
		first = strings.ToUpper(first)
	}
	if found {
		first += " " + strings.ReplaceAll(more, ".", " ")
	}
	return first
}

// hosts lists what metrics are about, in the order of the records.
func (r *Report) hosts() []string {
	out := []string{"client", "server"}
	for _, rec := range r.Run.Records {
		for _, s := range rec.Stacks {
			if !slices.Contains(out, s.Name) {
				out = append(out, s.Name)
			}
		}
	}
	return out
}

// metricsOf lists the metrics of a host that any variant has, in the order of
// the table of metrics.
func (r *Report) metricsOf(host string) []string {
	have := map[string]bool{}
	for _, v := range r.Variants {
		for name := range v.Samples {
			have[name] = strings.HasPrefix(name, host+".")
		}
	}
	var out []string
	for _, d := range metric.Table {
		if family, ok := d.Family(); ok {
			var members []string
			for name, mine := range have {
				if mine && strings.HasPrefix(name, family) {
					members = append(members, name)
				}
			}
			out = append(out, slices.Sorted(slices.Values(members))...)
			continue
		}
		if name := strings.Replace(d.Name, "HOST", host, 1); have[name] {
			out = append(out, name)
		}
	}
	return out
}

// forecastLine says how far measurement and forecast agree.
func (r *Report) forecastLine() string {
	checked, off := r.deviations()
	if checked == 0 {
		return ""
	}
	line := fmt.Sprintf("%d of %d counts within %.0f %%", checked-len(off), checked, forecast.Close*100)
	for i, d := range off {
		if i == 5 {
			line += fmt.Sprintf("; and %d more", len(off)-i)
			break
		}
		_, name, _ := strings.Cut(d.name, ".")
		line += fmt.Sprintf("; %s is %s, forecast %s", d.name, format(d.measured, name), format(d.forecast, name))
	}
	return line
}

func (r *Report) verdict(p *printer) {
	if r.Answer != "" {
		p.wrap("", r.Answer)
	}
	p.line("%s", r.verdictLine())
	for _, o := range r.Expectations {
		if !o.Held {
			p.wrap("  not held: ", o.Text)
			p.wrap("            ", o.Why)
		}
	}
}
