package report

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/results/metric"
)

// width is the most columns that a text report takes.
const width = 100

func writeText(w io.Writer, r *Report) error {
	p := &printer{w: w}
	s := r.Run.Plan.Scenario
	p.wrap("", s.Name+": "+s.Question)
	p.line("")
	r.conditions(p)
	p.line("")
	r.tables(p)
	r.verdict(p)
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

// wrap writes text after a prefix, wrapped, later lines indented below the first.
func (p *printer) wrap(prefix, s string) {
	room := width - len(prefix)
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
}

// conditions say what all variants ran under, and what twlab chose by itself.
func (r *Report) conditions(p *printer) {
	rec := r.Run.Records[0]
	e, set := rec.Environment, rec.Trial.Settings
	var parts []string
	if n := set.Traffic.Count; n > 0 {
		parts = append(parts, thousands(n)+" requests")
	}
	if set.Traffic.Rate > 0 {
		parts = append(parts, fmt.Sprintf("%s/s", thousands(int64(set.Traffic.Rate))))
	} else {
		parts = append(parts, "as fast as they are answered")
	}
	if set.Traffic.Duration > 0 {
		parts = append(parts, "for "+set.Traffic.Duration.String())
	}
	parts = append(parts, fmt.Sprintf("at most %s at a time", thousands(int64(set.Traffic.Concurrency))))
	dests := fmt.Sprintf("%d destinations", rec.Trial.Destinations)
	if rec.Trial.Destinations == 1 {
		dests = "1 destination"
	}
	if set.Traffic.Destinations == 0 {
		dests += " (auto)"
	}
	parts = append(parts, dests, "held "+set.Hold.String(), "link "+string(set.Link))
	p.wrap("traffic: ", strings.Join(parts, ", "))

	where := fmt.Sprintf("Linux %s %s, %d CPUs (%s), %s lab, seed %d, twlab %s",
		e.Kernel, e.Arch, e.CPUs, e.CPU, e.Backend, r.Run.Plan.Seed, e.Twlab)
	p.wrap("machine: ", strings.Replace(where, " ()", "", 1))
	names := map[string]bool{}
	for n := range lab.Pinned {
		names[n] = true
	}
	for n := range set.Sysctls {
		names[n] = true
	}
	var sysctls []string
	for n := range names {
		sysctls = append(sysctls, n+"="+rec.Stacks[0].Sysctls[n])
	}
	slices.Sort(sysctls)
	p.wrap("sysctls: ", "defaults of this kernel, and "+strings.Join(sysctls, ", "))
}

// A row of the table: a label and a cell for each variant.
type row struct {
	label string
	cells []string
	head  bool
}

func (r *Report) tables(p *printer) {
	rows, zero := r.rows()
	label := 0
	for _, row := range rows {
		label = max(label, len(row.label))
	}
	// As many variants side by side as fit.
	for from := 0; from < len(r.Variants); {
		to, taken := from, label
		for to < len(r.Variants) {
			col := len(r.Variants[to].Name)
			for _, row := range rows {
				if !row.head {
					col = max(col, len(row.cells[to]))
				}
			}
			if taken += col + 2; taken > width && to > from {
				break
			}
			to++
		}
		r.table(p, rows, from, to)
		from = to
	}
	for _, z := range zero {
		p.wrap("zero on the "+z.host+": ", strings.Join(z.names, ", "))
	}
	if len(zero) > 0 {
		p.line("")
	}
}

// zeros are the metrics of a host that are zero in every variant.
type zeros struct {
	host  string
	names []string
}

func (r *Report) table(p *printer, rows []row, from, to int) {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	header := table.Row{""}
	configs := []table.ColumnConfig{}
	for i, v := range r.Variants[from:to] {
		header = append(header, v.Name)
		configs = append(configs, table.ColumnConfig{Number: i + 2, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	t.SetColumnConfigs(configs)
	t.AppendHeader(header)
	for _, row := range rows {
		cells := table.Row{row.label}
		for i := from; i < to && !row.head; i++ {
			cells = append(cells, row.cells[i])
		}
		t.AppendRow(cells)
	}
	for line := range strings.SplitSeq(t.Render(), "\n") {
		p.line("%s", strings.TrimRight(line, " "))
	}
	p.line("")
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
			cells := make([]string, len(r.Variants))
			allZero := true
			for i, v := range r.Variants {
				value, ok := v.Value(name)
				cells[i] = "-"
				if ok {
					cells[i] = format(value, name)
				}
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
			if !allZero {
				rows = append(rows, row{label: "  " + l, cells: cells})
			}
		}
		rows = constant(rows)
		if len(z.names) > 0 {
			zero = append(zero, z)
		}
	}
	return rows, zero
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
		if rest, ok := strings.CutSuffix(d.Name, "ERRNO"); ok {
			var errors []string
			for name, mine := range have {
				if mine && strings.HasPrefix(name, rest) {
					errors = append(errors, name)
				}
			}
			out = append(out, slices.Sorted(slices.Values(errors))...)
			continue
		}
		if name := strings.Replace(d.Name, "HOST", host, 1); have[name] {
			out = append(out, name)
		}
	}
	return out
}

// variations are the settings in which the variants differ.
func (r *Report) variations() []row {
	settings := make([]map[string]string, len(r.Variants))
	var paths []string
	for i, v := range r.Run.Plan.Scenario.Variants {
		settings[i] = map[string]string{}
		b, err := json.Marshal(v.Settings)
		if err != nil {
			continue
		}
		var tree map[string]any
		if json.Unmarshal(b, &tree) == nil {
			flatten(tree, "", settings[i])
		}
		for path := range settings[i] {
			if !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	}
	slices.Sort(paths)
	var out []row
	for _, path := range paths {
		cells := make([]string, len(settings))
		differ := false
		for i, s := range settings {
			if cells[i] = s[path]; cells[i] == "" {
				cells[i] = "-"
			}
			differ = differ || cells[i] != cells[0]
		}
		if differ {
			out = append(out, row{label: "  " + path, cells: cells})
		}
	}
	if len(out) > 0 {
		out = append([]row{{label: "what varies", head: true}}, out...)
	}
	return out
}

func flatten(tree map[string]any, prefix string, into map[string]string) {
	for k, v := range tree {
		if sub, ok := v.(map[string]any); ok {
			flatten(sub, prefix+k+".", into)
			continue
		}
		into[prefix+k] = fmt.Sprint(v)
	}
}

func (r *Report) verdict(p *printer) {
	if r.Answer != "" {
		p.wrap("", r.Answer)
	}
	held := 0
	for _, o := range r.Expectations {
		if o.Held {
			held++
		}
	}
	if len(r.Expectations) == 0 {
		p.line("verdict: none (nothing was expected of these variants)")
		return
	}
	p.line("verdict: %s (%d of %d expectations)", r.Verdict, held, len(r.Expectations))
	for _, o := range r.Expectations {
		if !o.Held {
			p.wrap("  not held: ", o.Text)
			p.wrap("            ", o.Why)
		}
	}
}
