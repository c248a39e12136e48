package stats

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSummary(t *testing.T) {
	_, ok := Sample{}.Summary()
	require.False(t, ok)

	s, ok := Sample{Values: []float64{8000}, Exact: true}.Summary()
	require.True(t, ok)
	require.Equal(t, []float64{8000, 8000, 8000}, []float64{s.Center, *s.Low, *s.High})

	s, _ = Sample{Values: []float64{3, 1, 2}}.Summary()
	require.Equal(t, 2.0, s.Center)
	require.Nil(t, s.Low, "three values give no interval")

	s, _ = Sample{Values: []float64{5, 1, 4, 2, 6, 3}}.Summary()
	require.Equal(t, []float64{3.5, 1, 6}, []float64{s.Center, *s.Low, *s.High})
}
