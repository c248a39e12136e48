package results

import (
	"slices"

	"github.com/twlab/twlab/results/metric"
	"github.com/twlab/twlab/results/stats"
	"github.com/twlab/twlab/scenarios"
)

// A VariantSummary is what the trials of a variant came to.
type VariantSummary struct {
	Name    string
	Trials  int
	Samples map[string]stats.Sample // by metric
}

// Sample returns a metric's values. An error that no trial met, and a cause, was 0 in each.
func (v VariantSummary) Sample(name string) stats.Sample {
	s := v.Samples[name]
	if len(s.Values) == 0 && metric.FromZero(name) {
		return stats.Sample{Values: make([]float64, v.Trials), Exact: true}
	}
	return s
}

// Value returns the centre of a metric.
func (v VariantSummary) Value(name string) (float64, bool) {
	s, ok := v.Sample(name).Summary()
	return s.Center, ok
}

// Summarize sums up each variant, in the scenario's order.
func (r *Run) Summarize() []VariantSummary {
	var out []VariantSummary
	for _, name := range r.Plan.Scenario.VariantNames() {
		v := VariantSummary{Name: name, Samples: map[string]stats.Sample{}}
		for _, rec := range r.Variant(name) {
			for m, value := range rec.Metrics() {
				def, _ := metric.Lookup(m)
				s := v.Samples[m]
				// An error that earlier trials did not meet was 0 there.
				for metric.FromZero(m) && len(s.Values) < v.Trials {
					s.Values = append(s.Values, 0)
				}
				s.Values, s.Exact = append(s.Values, value), def.Exact && !rec.Trial.Settings.Traffic.UsesStdlib()
				v.Samples[m] = s
			}
			v.Trials++
		}
		for m, s := range v.Samples { // and 0 in later ones
			for metric.FromZero(m) && len(s.Values) < v.Trials {
				s.Values = append(s.Values, 0)
			}
			v.Samples[m] = s
		}
		out = append(out, v)
	}
	return out
}

// A Verdict is what the expectations came to.
type Verdict string

// The verdicts. None is for a run without expectations.
const (
	Held   Verdict = "held"
	Failed Verdict = "failed"
	None   Verdict = "none"
)

// Judge checks the run's expectations against its summaries.
func (r *Run) Judge(variants []VariantSummary) (Verdict, []scenarios.Outcome) {
	verdict := None
	var out []scenarios.Outcome
	for _, e := range r.Plan.Scenario.Expect {
		o := e.Judge(r.Plan.Scenario.VariantNames(), func(variant, name string) (float64, bool) {
			i := slices.IndexFunc(variants, func(v VariantSummary) bool { return v.Name == variant })
			if i < 0 {
				return 0, false
			}
			return variants[i].Value(name)
		})
		out = append(out, o)
		if verdict == None {
			verdict = Held
		}
		if !o.Held {
			verdict = Failed
		}
	}
	return verdict, out
}
