package stats

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCompare(t *testing.T) {
	exact := func(v ...float64) Sample { return Sample{Values: v, Exact: true} }
	loose := func(v ...float64) Sample { return Sample{Values: v} }
	require.Equal(t, Test{P: 1, Exact: true, Enough: true}, Compare(exact(3), exact(3, 3)))
	require.Equal(t, Test{P: 0, Exact: true, Enough: true}, Compare(exact(3), exact(4)))
	require.False(t, Compare(exact(3, 4), exact(4)).Exact, "what varies is not exact, whatever its name")
	require.False(t, Compare(loose(1, 2, 3), loose(7, 8, 9)).Enough, "three against three can never be told apart")
	far := Compare(loose(1, 2, 3, 4), loose(7, 8, 9, 10))
	require.True(t, far.Enough)
	require.InDelta(t, 0.029, far.P, 0.001)
	require.InDelta(t, 1.0, Compare(loose(1, 2, 3, 4), loose(1, 2, 3, 4)).P, 1e-9)
	require.Equal(t, Test{P: 1}, Compare(loose(), loose(1)))
}

// The example of Holm's procedure: multiplied by what is left, never falling.
func TestHolm(t *testing.T) {
	require.InDeltaSlice(t, []float64{0.03, 0.06, 0.06, 0.02}, Holm([]float64{0.01, 0.03, 0.04, 0.005}), 1e-9)
	require.Empty(t, Holm(nil))
}

// With nothing to find, at most a report in twenty may raise an alarm.
func TestFalseAlarmsOfManyMetricsTogether(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	sample := func() Sample {
		s := Sample{}
		for range 10 {
			s.Values = append(s.Values, rnd.NormFloat64())
		}
		return s
	}
	const reports, metrics = 1000, 8
	alarms := 0
	for range reports {
		var p []float64
		for range metrics {
			p = append(p, Compare(sample(), sample()).P)
		}
		for _, q := range Holm(p) {
			if q < Alpha {
				alarms++
				break
			}
		}
	}
	require.LessOrEqual(t, alarms, 70, "5 % of 1,000 and three standard errors")
}
