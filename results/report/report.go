// Package report turns a run into what people and programs read. A Report is
// worked out once from stored records; a Format only writes it down, so that
// no two formats can disagree about a verdict.
package report

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/results/compare"
	"github.com/twlab/twlab/results/metric"
	"github.com/twlab/twlab/scenarios"
	"github.com/twlab/twlab/scenarios/forecast"
)

// A Report is what a run came to.
type Report struct {
	Run          *results.Run
	Variants     []results.VariantSummary
	Verdict      results.Verdict
	Expectations []scenarios.Outcome
	// Forecasts say for each variant what was to be expected in closed form.
	Forecasts []forecast.Forecast
	// Lines are those of the scenario's sysctl.conf, judged; none without one.
	Lines    []Line
	Answer   string   // "" where a figure of it is absent
	Warnings []string // each with its variants
}

// New works out the report of a run.
func New(run *results.Run) *Report {
	r := &Report{Run: run, Variants: run.Summarize()}
	r.Verdict, r.Expectations = run.Judge(r.Variants)
	for _, v := range r.Variants {
		var f forecast.Forecast
		if records := run.Variant(v.Name); len(records) > 0 {
			f = forecast.Of(records[0].Trial)
		}
		r.Forecasts = append(r.Forecasts, f)
	}
	r.Lines = r.lines()
	figure := func(variant, name string) (string, bool) {
		i := slices.IndexFunc(r.Variants, func(v results.VariantSummary) bool { return v.Name == variant })
		if i < 0 {
			return "", false
		}
		v, ok := r.Variants[i].Value(name)
		return format(v, name), ok
	}
	if r.Verdict != results.Failed {
		if text, ok := run.Plan.Scenario.FillAnswer(figure); ok {
			r.Answer = text
		}
	}
	r.Warnings = append(r.Warnings, run.Warnings...)
	// The same warning of many variants is one.
	var texts []string
	about := map[string][]string{}
	for _, rec := range run.Records {
		for _, w := range rec.Warnings {
			if about[w] == nil {
				texts = append(texts, w)
			}
			if !slices.Contains(about[w], rec.Trial.Variant) {
				about[w] = append(about[w], rec.Trial.Variant)
			}
		}
	}
	for _, w := range texts {
		who := strings.Join(about[w], ", ")
		if n := len(about[w]); n > 3 {
			who = fmt.Sprintf("%d variants", n)
		}
		r.Warnings = append(r.Warnings, who+": "+w)
	}
	return r
}

// A deviation is a count that is not where its forecast put it.
type deviation struct {
	name               string // with the variant
	forecast, measured float64
}

// deviations compares forecasts with what was measured; checked is how many
// there were.
func (r *Report) deviations() (checked int, out []deviation) {
	for i, v := range r.Variants {
		for _, name := range slices.Sorted(maps.Keys(r.Forecasts[i].Figures)) {
			want := r.Forecasts[i].Figures[name]
			got, ok := v.Value(name)
			if !ok {
				continue
			}
			checked++
			// One socket is no deviation. Nor is what the kernel's timer wheel adds
			// to a life (up to an eighth of a level, 4 % seen) and a look is late.
			slack := max(1, forecast.Close*want)
			if def, _ := metric.Lookup(name); def.Unit == "s" {
				slack = max(0.5, 0.05*want)
			}
			if math.Abs(got-want) > slack {
				out = append(out, deviation{v.Name + "." + name, want, got})
			}
		}
	}
	return checked, out
}

// A Format writes reports.
type Format struct {
	Name  string
	Write func(w io.Writer, r *Report) error
	// Compare writes a comparison.
	Compare func(w io.Writer, c *compare.Comparison) error
}

// Formats lists the formats by the names that --format takes.
var Formats = []Format{
	{"text", writeText, compareText},
	{"md", writeMarkdown, compareMarkdown},
	{"csv", writeCSV, compareCSV},
	{"json", writeJSON, compareJSON},
	{"junit", writeJUnit, compareJUnit},
	{"bench", writeBench, compareBench},
	{"openmetrics", writeOpenMetrics, compareOpenMetrics},
	{"github", writeGitHub, compareGitHub},
}

// Find returns the format of that name.
func Find(name string) (Format, error) {
	var names []string
	for _, f := range Formats {
		if f.Name == name {
			return f, nil
		}
		names = append(names, f.Name)
	}
	return Format{}, fmt.Errorf("--format %s: write one of %s", name, strings.Join(names, ", "))
}

// format writes a figure of a metric for people.
func format(v float64, name string) string {
	def, _ := metric.Lookup(name)
	switch def.Unit {
	case "ratio":
		s := strconv.FormatFloat(v*100, 'f', 1, 64)
		if s == "100.0" && v < 1 { // never round a missing one away
			s = "99.9"
		}
		return strings.TrimSuffix(s, ".0") + " %"
	case "s":
		switch {
		case v == 0 || v >= 0.1:
			return strconv.FormatFloat(v, 'f', 2, 64) + " s"
		case v >= 0.001:
			return strconv.FormatFloat(v*1e3, 'f', 1, 64) + " ms"
		}
		return strconv.FormatFloat(v*1e6, 'f', 0, 64) + " us"
	}
	if v != 0 && v < 10 && v != float64(int64(v)) { // a mean
		if v < 0.1 {
			return "<0.1"
		}
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return thousands(int64(v + 0.5))
}

// thousands writes 8000 as 8,000.
func thousands(n int64) string {
	if n < 0 {
		return "-" + thousands(-n)
	}
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
