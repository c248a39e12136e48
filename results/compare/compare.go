// Package compare says what differs between two runs, or between the variants
// of one: metric by metric, with the chance that it is noise, and first of all
// what they ran under. It judges gates, such as "client.reuse_ratio worse by
// 1%". How a comparison is written down is package report's business.
package compare

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twlab/twlab/internal/suggest"
	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/results/metric"
	"github.com/twlab/twlab/results/stats"
)

// A Change says what became of a metric.
type Change string

// The changes. Noise is a difference that may be chance, or that too few
// trials were run to tell.
const (
	Same      Change = "same"
	Noise     Change = "noise"
	Better    Change = "better"
	Worse     Change = "worse"
	Different Change = "different" // of a metric that is neither good nor bad
)

// A Row compares one metric of one variant.
type Row struct {
	Variant string
	Metric  string
	// Before and After are the samples; Delta is the relative change of their
	// centres, nil where Before is 0 and After is not.
	Before, After stats.Sample
	Delta         *float64
	Test          stats.Test
	// Gated rows are watched: their P is corrected for their number (Holm), and
	// those that are worse are the report's alarms.
	Gated     bool
	Corrected float64
	Change    Change

	before, after float64 // centres
}

// Values are the centres before and after.
func (r Row) Values() (before, after float64) { return r.before, r.after }

// A Condition is something that both sides ran under, differently.
type Condition struct {
	What   string `json:"what"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// A Comparison is what two sides came to.
type Comparison struct {
	Scenario      string
	Before, After string    // directories, or variants
	Started       time.Time // of After
	Conditions    []Condition
	// Obstacles say why the sides cannot be compared. They are compared all the
	// same, for whoever insists.
	Obstacles []string
	Rows      []Row
	// Alone names variants that only one side has.
	Alone   []string
	Gates   []Outcome
	Watched int // rows that are gated
	Notes   []string
}

// Alarms are the watched rows that are worse, beyond chance.
func (c *Comparison) Alarms() []Row {
	return slices.DeleteFunc(slices.Clone(c.Rows), func(r Row) bool { return !r.Gated || r.Change != Worse })
}

// Failed says whether a gate failed.
func (c *Comparison) Failed() bool {
	return slices.ContainsFunc(c.Gates, func(o Outcome) bool { return o.Failed })
}

// Options shape a comparison.
type Options struct {
	Gates []Gate
	// OtherKernel says that a difference of kernels is what is asked about.
	OtherKernel bool
}

// watched are the metrics that are gated where no gate names others: what a
// regression of connection reuse shows in.
var watched = []string{
	"client.reuse_ratio", "client.connections.opened", "server.connections.accepted", "client.requests.failed",
	"client.time_wait.peak", "server.time_wait.peak", "client.close_wait.end", "server.close_wait.end",
	"client.connect.p99", "client.requests.rate",
}

// ErrSelf reports a run that is compared with itself.
var ErrSelf = errors.New("a run is compared with itself: name two")

// Runs compares two runs of a scenario, variant by variant. Two runs of one
// variant each are compared whatever these are called.
func Runs(before, after *results.Run, o Options) (*Comparison, error) {
	a, err1 := filepath.Abs(before.Dir)
	b, err2 := filepath.Abs(after.Dir)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if a == b || before.Started.Equal(after.Started) && reflect.DeepEqual(before.Records, after.Records) {
		return nil, fmt.Errorf("%s: %w", before.Dir, ErrSelf)
	}
	c := &Comparison{Scenario: after.Plan.Scenario.Name, Before: before.Dir, After: after.Dir, Started: after.Started}
	c.Conditions = conditions(before, after)
	c.Obstacles = obstacles(before, after, o)
	c.Notes = append(slices.Clone(before.Warnings), after.Warnings...)
	left, right := before.Summarize(), after.Summarize()
	left, right = ran(left), ran(right)
	if len(left) == 1 && len(right) == 1 {
		name := right[0].Name
		if left[0].Name != name {
			name = left[0].Name + " -> " + name
		}
		c.add(name, left[0], right[0])
	} else {
		for _, v := range left {
			if i := index(right, v.Name); i >= 0 {
				c.add(v.Name, v, right[i])
			} else {
				c.Alone = append(c.Alone, v.Name+" is only in "+before.Dir)
			}
		}
		for _, v := range right {
			if index(left, v.Name) < 0 {
				c.Alone = append(c.Alone, v.Name+" is only in "+after.Dir)
			}
		}
		if len(c.Rows) == 0 {
			return nil, fmt.Errorf("%s and %s have no variant in common", before.Dir, after.Dir)
		}
	}
	return c, c.judge(o)
}

// Variants compares each variant of a run with its baseline, which is the first
// one unless the scenario says otherwise.
func Variants(run *results.Run, o Options) (*Comparison, error) {
	c := &Comparison{Scenario: run.Plan.Scenario.Name, Before: "baseline", After: run.Dir, Started: run.Started}
	c.Obstacles, c.Notes = troubles(run), slices.Clone(run.Warnings)
	all := ran(run.Summarize())
	first := run.Plan.Scenario.Variants[0].Name
	for _, v := range run.Plan.Scenario.Variants {
		base := v.Baseline
		if base == "" {
			base = first
		}
		i, j := index(all, base), index(all, v.Name)
		if base == v.Name || i < 0 || j < 0 {
			continue
		}
		c.add(base+" -> "+v.Name, all[i], all[j])
		at := slices.Index(run.Plan.Scenario.VariantNames(), base)
		c.Conditions = append(c.Conditions, settings(base+" -> "+v.Name, run.Plan.Scenario.Variants[at].Flat(), v.Flat(), "")...)
	}
	if len(c.Rows) == 0 {
		return nil, fmt.Errorf("%s has one variant, and nothing to compare it with: name two runs", run.Dir)
	}
	return c, c.judge(o)
}

func ran(list []results.VariantSummary) []results.VariantSummary {
	return slices.DeleteFunc(list, func(v results.VariantSummary) bool { return v.Trials == 0 })
}

func index(list []results.VariantSummary, name string) int {
	return slices.IndexFunc(list, func(v results.VariantSummary) bool { return v.Name == name })
}

// add compares all metrics of two variants.
func (c *Comparison) add(name string, before, after results.VariantSummary) {
	names := map[string]bool{}
	for m := range before.Samples {
		names[m] = true
	}
	for m := range after.Samples {
		names[m] = true
	}
	for _, m := range metric.Sort(slices.Collect(maps.Keys(names))) {
		r := Row{Variant: name, Metric: m, Before: before.Sample(m), After: after.Sample(m)}
		if len(r.Before.Values) == 0 || len(r.After.Values) == 0 {
			continue
		}
		r.Test = stats.Compare(r.Before, r.After)
		r.before, _ = before.Value(m)
		r.after, _ = after.Value(m)
		switch a, b := r.Values(); {
		case a != 0:
			d := (b - a) / math.Abs(a)
			r.Delta = &d
		case b == 0:
			d := 0.0
			r.Delta = &d
		}
		c.Rows = append(c.Rows, r)
	}
}

// judge corrects the tests of the watched rows, names the changes, and sees to
// the gates.
func (c *Comparison) judge(o Options) error {
	for _, g := range o.Gates {
		if !slices.ContainsFunc(c.Rows, g.about) {
			return fmt.Errorf("--fail-on %q: no variant that was compared has that metric%s", g.Text, c.suggestion(g))
		}
	}
	var tested []int
	var p []float64
	for i := range c.Rows {
		r := &c.Rows[i]
		if len(o.Gates) > 0 {
			r.Gated = slices.ContainsFunc(o.Gates, func(g Gate) bool { return g.about(*r) })
		} else {
			r.Gated = slices.Contains(watched, r.Metric)
		}
		r.Corrected = r.Test.P
		if !r.Gated {
			continue
		}
		c.Watched++
		if !r.Test.Exact {
			tested, p = append(tested, i), append(p, r.Test.P)
		}
	}
	for k, q := range stats.Holm(p) {
		c.Rows[tested[k]].Corrected = q
	}
	for i := range c.Rows {
		c.Rows[i].Change = c.Rows[i].change()
	}
	for _, g := range o.Gates {
		c.Gates = append(c.Gates, g.judge(c.Rows))
	}
	return nil
}

func (c *Comparison) suggestion(g Gate) string {
	var names []string
	for _, r := range c.Rows {
		names = append(names, r.Metric)
	}
	return suggest.For(g.metric, names)
}

// change names what became of the metric.
func (r Row) change() Change {
	a, b := r.Values()
	switch def, _ := metric.Lookup(r.Metric); {
	case r.Test.Exact && r.Test.P == 1, a == b && r.Test.P > 0.5:
		return Same
	case r.Corrected >= stats.Alpha || a == b:
		return Noise
	case def.Better == metric.Neither:
		return Different
	case (b > a) == (def.Better == metric.Higher):
		return Better
	}
	return Worse
}

// A Gate is a claim about a change that must not be: "client.reuse_ratio worse
// by 1%".
type Gate struct {
	Text    string
	variant string // "" for all
	metric  string
	differs bool    // in any direction
	by      float64 // relative change that is tolerated
}

// ParseGate reads [VARIANT.]METRIC worse [by N%], or differs [by N%].
func ParseGate(text string) (Gate, error) {
	g := Gate{Text: text}
	bad := func(why string) (Gate, error) {
		return g, fmt.Errorf("--fail-on %q: %s; write such as 'client.reuse_ratio worse by 1%%' or 'server.connections.accepted differs'", text, why)
	}
	f := strings.Fields(text)
	if len(f) != 2 && (len(f) != 4 || f[2] != "by") {
		return bad("that is no gate")
	}
	switch f[1] {
	case "worse":
	case "differs":
		g.differs = true
	default:
		return bad(fmt.Sprintf("%q is neither worse nor differs", f[1]))
	}
	if len(f) == 4 {
		v, err := strconv.ParseFloat(strings.TrimSuffix(f[3], "%"), 64)
		if err != nil || v < 0 || !strings.HasSuffix(f[3], "%") {
			return bad(fmt.Sprintf("%q is no share", f[3]))
		}
		g.by = v / 100
	}
	g.metric = f[0]
	def, ok := metric.Lookup(g.metric)
	if !ok {
		var rest string
		g.variant, rest, _ = strings.Cut(f[0], ".")
		if def, ok = metric.Lookup(rest); !ok {
			return bad("no metric is called " + f[0] + suggest.For(f[0], metric.Names()))
		}
		g.metric = rest
	}
	if def.Better == metric.Neither && !g.differs {
		return bad(g.metric + " is neither good nor bad: say differs")
	}
	return g, nil
}

func (g Gate) about(r Row) bool {
	return r.Metric == g.metric && (g.variant == "" || r.Variant == g.variant || strings.HasSuffix(r.Variant, " -> "+g.variant))
}

// An Outcome is what became of a gate.
type Outcome struct {
	Gate   string `json:"gate"`
	Failed bool   `json:"failed"`
	// Why tells the figures of a failure.
	Why string `json:"why,omitempty"`
	// Undecided says that too few trials were run for some row.
	Undecided string `json:"undecided,omitempty"`
}

func (g Gate) judge(rows []Row) Outcome {
	o := Outcome{Gate: g.Text}
	var why, open []string
	for _, r := range rows {
		if !g.about(r) {
			continue
		}
		a, b := r.Values()
		beyond := r.Delta == nil || math.Abs(*r.Delta) > g.by
		text := fmt.Sprintf("%s: %s went from %s to %s", r.Variant, r.Metric, number(a), number(b))
		wrong := r.Change == Worse || g.differs && (r.Change == Better || r.Change == Different)
		switch {
		case wrong && beyond:
			why = append(why, text)
		case r.Change == Noise && !r.Test.Enough && beyond:
			open = append(open, fmt.Sprintf("%s, and %d against %d trials cannot tell that from chance: run at least 6 (--repeat)",
				text, len(r.Before.Values), len(r.After.Values)))
		}
	}
	o.Failed, o.Why, o.Undecided = len(why) > 0, strings.Join(why, "; "), strings.Join(open, "; ")
	return o
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

// conditions lists what the two runs ran under differently: sysctls first,
// since tuning is mostly about those.
func conditions(before, after *results.Run) []Condition {
	var out []Condition
	a, b := before.Records[0], after.Records[0]
	say := func(what, x, y string) {
		if x != y {
			out = append(out, Condition{what, x, y})
		}
	}
	for _, stack := range a.Stacks {
		other := b.Stack(stack.Name)
		if other == nil {
			continue
		}
		names := map[string]bool{}
		for n := range stack.Sysctls {
			names[n] = true
		}
		for n := range other.Sysctls {
			names[n] = true
		}
		for _, n := range slices.Sorted(maps.Keys(names)) {
			x, y := stack.Sysctls[n], other.Sysctls[n]
			if x != y && !slices.ContainsFunc(out, func(c Condition) bool { return c.What == n && c.Before == x && c.After == y }) {
				say(n, orNone(x), orNone(y))
			}
		}
	}
	for _, v := range before.Plan.Scenario.Variants {
		i := slices.Index(after.Plan.Scenario.VariantNames(), v.Name)
		if i < 0 {
			continue
		}
		out = append(out, settings(v.Name, v.Flat(), after.Plan.Scenario.Variants[i].Flat(), "sysctls.")...) // those as read back, above
	}
	e, f := a.Environment, b.Environment
	say("kernel", e.Kernel, f.Kernel)
	say("twlab", e.Twlab, f.Twlab)
	say("go", e.Go, f.Go)
	say("cpu", fmt.Sprintf("%d x %s", e.CPUs, e.CPU), fmt.Sprintf("%d x %s", f.CPUs, f.CPU))
	say("lab", e.Backend, f.Backend)
	return out
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// settings lists what differs between the settings of two variants, but for paths that
// begin with skip.
func settings(name string, before, after map[string]string, skip string) []Condition {
	var out []Condition
	paths := maps.Clone(before)
	maps.Copy(paths, after)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		x, y := orNone(before[path]), orNone(after[path])
		switch {
		case x == y, path == "try", skip != "" && strings.HasPrefix(path, skip):
			continue
		case strings.HasPrefix(path, "proxy.files."):
			x, y = fmt.Sprintf("%d bytes", len(x)), fmt.Sprintf("%d bytes, other text", len(y))
		}
		out = append(out, Condition{name + ": " + path, x, y})
	}
	return out
}

// obstacles say why two runs should not be compared.
func obstacles(before, after *results.Run, o Options) []string {
	var out []string
	a, b := before.Records[0].Environment, after.Records[0].Environment
	if x, y := before.Plan.Scenario.Name, after.Plan.Scenario.Name; x != y {
		out = append(out, fmt.Sprintf("they asked different questions: %s and %s", x, y))
	}
	if a.Kernel != b.Kernel && !o.OtherKernel {
		out = append(out, fmt.Sprintf("they ran on different kernels, %s and %s (--other-kernel, if that is the question)", a.Kernel, b.Kernel))
	}
	if a.Backend != b.Backend {
		out = append(out, fmt.Sprintf("they ran in different labs, %s and %s", a.Backend, b.Backend))
	}
	if a.OS != b.OS || a.Arch != b.Arch {
		out = append(out, fmt.Sprintf("they ran on different machines, %s/%s and %s/%s", a.OS, a.Arch, b.OS, b.Arch))
	}
	for _, v := range before.Plan.Scenario.Variants {
		i := slices.Index(after.Plan.Scenario.VariantNames(), v.Name)
		if i < 0 {
			continue
		}
		t, u := v.Traffic, after.Plan.Scenario.Variants[i].Traffic
		if t.Count != u.Count || t.Rate != u.Rate || t.ConnectionRate != u.ConnectionRate || t.Duration != u.Duration {
			out = append(out, "variant "+v.Name+" has another load in one than in the other")
		}
	}
	return append(out, append(troubles(before), troubles(after)...)...)
}

// troubles say what is wrong with a run by itself.
func troubles(run *results.Run) []string {
	var out []string
	say := func(format string, args ...any) {
		text := run.Dir + ": " + fmt.Sprintf(format, args...)
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	for _, r := range run.Records {
		if n := r.Trial.Settings.Traffic.Count; r.Client.Started < n {
			say("variant %s did not reach its load", r.Trial.Variant)
		}
		for _, s := range r.Stacks {
			if s.Sampler.Late > s.Sampler.Snapshots/10 && s.Sampler.Late > 1 {
				say("the sampler of variant %s missed more than a tenth of its turns", r.Trial.Variant)
			}
		}
	}
	return out
}
