// Package stats is the mathematics of repeated measurements: a Sample of one
// metric over trials and its Summary, by golang.org/x/perf's benchmath, the
// library of benchstat. It knows neither records nor reports.
package stats

import (
	"math"
	"slices"

	"golang.org/x/perf/benchmath"
)

// Confidence is that of every interval.
const Confidence = 0.95

// A Sample holds the values of one metric, one a trial.
type Sample struct {
	Values []float64 // in the order of the trials
	// Exact values count events that the traffic alone decides: they have no
	// doubt, however few there are.
	Exact bool
}

// A Summary says where the values lie. Low and High are nil where the sample
// is too small to tell (fewer than 6 values that are not exact).
type Summary struct {
	Center    float64 // the median
	Low, High *float64
}

// Summary sums the sample up, without assumptions about its distribution. An
// empty sample has none.
func (s Sample) Summary() (sum Summary, ok bool) {
	if len(s.Values) == 0 {
		return Summary{}, false
	}
	if s.Exact {
		low, high := slices.Min(s.Values), slices.Max(s.Values)
		return Summary{Center: median(s.Values), Low: &low, High: &high}, true
	}
	b := benchmath.AssumeNothing.Summary(benchmath.NewSample(slices.Clone(s.Values), &benchmath.DefaultThresholds), Confidence)
	sum.Center = b.Center
	if !math.IsInf(b.Lo, 0) && !math.IsInf(b.Hi, 0) && !math.IsNaN(b.Lo) && !math.IsNaN(b.Hi) {
		sum.Low, sum.High = &b.Lo, &b.Hi
	}
	return sum, true
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}
