package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jstemmer/go-junit-report/v2/junit"

	"github.com/twlab/twlab/results/compare"
	"github.com/twlab/twlab/results/metric"
	"github.com/twlab/twlab/results/stats"
)

// writeJUnit writes a test case for each expectation, the evidence in the
// message of those that failed.
func writeJUnit(w io.Writer, r *Report) error {
	s := r.Run.Plan.Scenario
	took := int64(0)
	for _, rec := range r.Run.Records {
		for _, p := range rec.Phases {
			took += p.End - p.Begin
		}
	}
	suite := newSuite(s.Name, time.Duration(took))
	suite.Timestamp = r.Run.Started.UTC().Format(junitTime)
	e := r.Run.Records[0].Environment
	for _, p := range [][2]string{{"kernel", e.Kernel}, {"lab", e.Backend}, {"twlab", e.Twlab}, {"seed", strconv.FormatUint(r.Run.Plan.Seed, 10)}} {
		suite.AddProperty(p[0], p[1])
	}
	for _, o := range r.Expectations {
		why := ""
		if !o.Held {
			why = o.Why
		}
		addCase(&suite, o.Text, why)
	}
	if len(r.Expectations) == 0 {
		addCase(&suite, "the trials ran (nothing was expected of them)", "")
	}
	if len(r.Warnings) > 0 {
		suite.SystemOut.Data = strings.Join(r.Warnings, "\n")
	}
	return writeSuite(w, suite)
}

// compareJUnit writes a test case for each gate or, without any, for each
// watched metric.
func compareJUnit(w io.Writer, c *compare.Comparison) error {
	suite := newSuite(c.Scenario+".compare", 0)
	suite.Timestamp = c.Started.UTC().Format(junitTime)
	suite.AddProperty("before", c.Before)
	suite.AddProperty("after", c.After)
	for _, g := range c.Gates {
		addCase(&suite, g.Gate, g.Why)
		if g.Undecided != "" {
			suite.SystemOut.Data += g.Gate + " is undecided: " + g.Undecided + "\n"
		}
	}
	for _, r := range c.Rows {
		if len(c.Gates) > 0 || !r.Gated {
			continue
		}
		why := ""
		if a, b := r.Values(); r.Change == compare.Worse {
			why = fmt.Sprintf("%s -> %s, %s (%s)", format(a, r.Metric), format(b, r.Metric), delta(r), proof(r))
		}
		addCase(&suite, r.Variant+": "+r.Metric, why)
	}
	if len(c.Obstacles) > 0 {
		suite.SystemOut.Data += "not comparable: " + strings.Join(c.Obstacles, "\n")
	}
	return writeSuite(w, suite)
}

// junitTime is how JUnit's schemas write a time: without a zone.
const junitTime = "2006-01-02T15:04:05"

// newSuite has all that the stricter of the schemas in use ask for (Ant's, which
// wants more than that of Jenkins).
func newSuite(name string, took time.Duration) junit.Testsuite {
	return junit.Testsuite{
		Name: "twlab." + name, Package: "twlab", Hostname: "localhost", Time: fmt.Sprintf("%.3f", took.Seconds()),
		Properties: &[]junit.Property{}, SystemOut: &junit.Output{}, SystemErr: &junit.Output{},
	}
}

func addCase(s *junit.Testsuite, name, why string) {
	c := junit.Testcase{Name: name, Classname: s.Name, Time: "0.000"}
	if why != "" {
		c.Failure = &junit.Result{Message: why, Type: "expectation", Data: why}
	}
	s.AddTestcase(c)
}

func writeSuite(w io.Writer, s junit.Testsuite) error {
	all := junit.Testsuites{Suites: []junit.Testsuite{s}} // the totals are the suite's
	if _, err := io.WriteString(w, `<?xml version="1.0" encoding="UTF-8"?>`+"\n"); err != nil {
		return err
	}
	return all.WriteXML(w)
}

// writeBench writes Go benchmark lines (golang.org/design/14313-benchmark-format),
// one a trial, a unit for each metric, for benchstat.
func writeBench(w io.Writer, r *Report) error {
	p := &printer{w: w}
	e := r.Run.Records[0].Environment
	p.line("goos: %s", e.OS)
	p.line("goarch: %s", e.Arch)
	p.line("kernel: %s", e.Kernel)
	names := map[string]bool{}
	varies := map[string]bool{}
	for _, v := range r.Variants {
		for name, s := range v.Samples {
			names[name] = true
			if slices.Min(s.Values) != slices.Max(s.Values) {
				varies[name] = true
			}
		}
	}
	sorted := metric.Sort(slices.Collect(maps.Keys(names)))
	for _, name := range sorted {
		def, _ := metric.Lookup(name)
		if def.Better != metric.Neither {
			p.line("Unit %s better=%s", name, def.Better)
		}
		if def.Exact && !varies[name] {
			p.line("Unit %s assume=exact", name)
		}
	}
	for _, v := range r.Variants {
		for i := range v.Trials {
			// Without the number of CPUs at its end benchstat would take the 65 of
			// pool-65 for it.
			line := fmt.Sprintf("Benchmark%s/%s-%d 1", camel(r.Run.Plan.Scenario.Name), v.Name, e.CPUs)
			for _, name := range sorted {
				if s := v.Samples[name]; i < len(s.Values) {
					line += " " + strconv.FormatFloat(s.Values[i], 'g', -1, 64) + " " + name
				}
			}
			p.line("%s", line)
		}
	}
	return p.err
}

// camel writes tw-reuse as TwReuse.
func camel(s string) string {
	out := ""
	for part := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '-' || r == '_' }) {
		out += strings.ToUpper(part[:1]) + part[1:]
	}
	return out
}

// compareBench writes both sides in one file, told apart by the key "side":
// benchstat -col side.
func compareBench(w io.Writer, c *compare.Comparison) error {
	p := &printer{w: w}
	seen := map[string]bool{}
	for _, r := range c.Rows {
		def, _ := metric.Lookup(r.Metric)
		if seen[r.Metric] {
			continue
		}
		seen[r.Metric] = true
		if def.Better != metric.Neither {
			p.line("Unit %s better=%s", r.Metric, def.Better)
		}
		if r.Test.Exact && !slices.ContainsFunc(c.Rows, func(o compare.Row) bool { return o.Metric == r.Metric && !o.Test.Exact }) {
			p.line("Unit %s assume=exact", r.Metric)
		}
	}
	for _, s := range []struct {
		name string
		of   func(compare.Row) stats.Sample
	}{
		{"before", func(r compare.Row) stats.Sample { return r.Before }},
		{"after", func(r compare.Row) stats.Sample { return r.After }},
	} {
		p.line("")
		p.line("side: %s", s.name)
		for _, r := range c.Rows {
			for _, v := range s.of(r).Values {
				p.line("Benchmark%s/%s-1 1 %s %s", camel(c.Scenario), strings.ReplaceAll(r.Variant, " -> ", "-to-"), strconv.FormatFloat(v, 'g', -1, 64), r.Metric)
			}
		}
	}
	return p.err
}

// A gauge is a figure for OpenMetrics.
type gauge struct {
	name, doc string
	labels    [][2]string
	value     float64
}

// writeGauges writes OpenMetrics text (the format of Prometheus' successor, which GitLab's
// metrics reports read): families together, and an end mark.
func writeGauges(w io.Writer, gauges []gauge) error {
	p := &printer{w: w}
	slices.SortStableFunc(gauges, func(a, b gauge) int { return strings.Compare(a.name, b.name) })
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	last := ""
	for _, g := range gauges {
		if g.name != last {
			p.line("# TYPE %s gauge", g.name)
			p.line("# HELP %s %s", g.name, escape.Replace(g.doc))
			last = g.name
		}
		var labels []string
		for _, l := range g.labels {
			labels = append(labels, fmt.Sprintf(`%s="%s"`, l[0], escape.Replace(l[1])))
		}
		p.line("%s{%s} %s", g.name, strings.Join(labels, ","), strconv.FormatFloat(g.value, 'g', -1, 64))
	}
	p.line("# EOF")
	return p.err
}

func gaugeName(metric string) string {
	return "twlab_" + strings.NewReplacer(".", "_", "-", "_").Replace(metric)
}

func writeOpenMetrics(w io.Writer, r *Report) error {
	var all []gauge
	scenario := [2]string{"scenario", r.Run.Plan.Scenario.Name}
	for _, v := range r.Variants {
		for name := range v.Samples {
			if value, ok := v.Value(name); ok {
				def, _ := metric.Lookup(name)
				all = append(all, gauge{gaugeName(name), def.Doc, [][2]string{scenario, {"variant", v.Name}}, value})
			}
		}
	}
	for _, o := range r.Expectations {
		held := 0.0
		if o.Held {
			held = 1
		}
		all = append(all, gauge{"twlab_expectation_held", "1 where the expectation held, else 0", [][2]string{scenario, {"expectation", o.Text}}, held})
	}
	return writeGauges(w, all)
}

func compareOpenMetrics(w io.Writer, c *compare.Comparison) error {
	var all []gauge
	for _, r := range c.Rows {
		def, _ := metric.Lookup(r.Metric)
		labels := [][2]string{{"scenario", c.Scenario}, {"variant", r.Variant}}
		a, b := r.Values()
		all = append(all, gauge{gaugeName(r.Metric), def.Doc, append(slices.Clone(labels), [2]string{"side", "before"}), a},
			gauge{gaugeName(r.Metric), def.Doc, append(slices.Clone(labels), [2]string{"side", "after"}), b})
	}
	for _, g := range c.Gates {
		failed := 0.0
		if g.Failed {
			failed = 1
		}
		all = append(all, gauge{"twlab_gate_failed", "1 where the gate failed, else 0", [][2]string{{"scenario", c.Scenario}, {"gate", g.Gate}}, failed})
	}
	return writeGauges(w, all)
}

// annotation writes a GitHub workflow command.
func annotation(p *printer, level, title, message string) {
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	p.line("::%s title=%s::%s", level, property.Replace(title), data.Replace(message))
}

// writeGitHub writes annotations: an error for each expectation that failed.
func writeGitHub(w io.Writer, r *Report) error {
	p := &printer{w: w}
	title := "twlab " + r.Run.Plan.Scenario.Name
	for _, o := range r.Expectations {
		if !o.Held {
			annotation(p, "error", title, o.Text+"\n"+o.Why)
		}
	}
	for _, warning := range r.Warnings {
		annotation(p, "warning", title, warning)
	}
	annotation(p, "notice", title, strings.TrimSpace(r.verdictLine()+"\n"+strings.Join(strings.Fields(r.Answer), " ")))
	return p.err
}

func compareGitHub(w io.Writer, c *compare.Comparison) error {
	p := &printer{w: w}
	title := "twlab " + c.Scenario
	for _, g := range c.Gates {
		switch {
		case g.Failed:
			annotation(p, "error", title, g.Gate+"\n"+g.Why)
		case g.Undecided != "":
			annotation(p, "warning", title, g.Gate+" is undecided\n"+g.Undecided)
		}
	}
	if len(c.Gates) == 0 {
		for _, r := range c.Alarms() {
			a, b := r.Values()
			annotation(p, "warning", title, fmt.Sprintf("%s: %s %s -> %s, worse (%s)", r.Variant, r.Metric, format(a, r.Metric), format(b, r.Metric), proof(r)))
		}
	}
	for _, o := range c.Obstacles {
		annotation(p, "warning", title, "not comparable: "+o)
	}
	annotation(p, "notice", title, strings.Join(conclusion(c), "\n"))
	return p.err
}
