package stats

import (
	"cmp"
	"math"
	"slices"

	"golang.org/x/perf/benchmath"
)

// Alpha is the probability of a false alarm that a report is allowed.
const Alpha = 0.05

// A Test says whether two samples could be the same.
type Test struct {
	// P is the probability of a difference like this one where there is none: 0 for
	// exact samples that differ, 1 for exact samples that do not.
	P float64
	// Exact says that there was nothing to estimate: all values of a sample are the
	// same, and the metric is an exact one.
	Exact bool
	// Enough says that the samples are large enough for P to fall below Alpha at all.
	Enough bool
}

// Compare tests two samples: exact ones that do not vary exactly, others by the
// Mann-Whitney U-test, as benchstat does.
func Compare(a, b Sample) Test {
	if len(a.Values) == 0 || len(b.Values) == 0 {
		return Test{P: 1}
	}
	if a.Exact && b.Exact && a.constant() && b.constant() {
		if a.Values[0] == b.Values[0] {
			return Test{P: 1, Exact: true, Enough: true}
		}
		return Test{P: 0, Exact: true, Enough: true}
	}
	sample := func(s Sample) *benchmath.Sample {
		return benchmath.NewSample(slices.Clone(s.Values), &benchmath.DefaultThresholds)
	}
	c := benchmath.AssumeNothing.Compare(sample(a), sample(b))
	p := c.P
	if math.IsNaN(p) {
		p = 1
	}
	return Test{P: p, Enough: leastP(len(a.Values), len(b.Values)) < Alpha}
}

func (s Sample) constant() bool { return slices.Min(s.Values) == slices.Max(s.Values) }

// leastP is the smallest P that the U-test can have with so many values: all of
// one sample above all of the other, on either side.
func leastP(n, m int) float64 {
	ways := 1.0 // n+m choose n
	for i := 1; i <= n; i++ {
		ways *= float64(m+i) / float64(i)
	}
	return 2 / ways
}

// Holm corrects the P of several tests for their number (S. Holm, 1979): where
// all that fall below alpha afterwards are called, the probability that any of
// them is a false alarm stays below alpha. The result is in the order given.
func Holm(p []float64) []float64 {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(p[a], p[b]) })
	out := make([]float64, len(p))
	most := 0.0
	for rank, i := range order {
		most = max(most, min(1, p[i]*float64(len(p)-rank)))
		out[i] = most
	}
	return out
}
