package pace

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestScheduleIsDueAtTheRateWhateverHappened(t *testing.T) {
	s := Schedule{Begin: 1000, Rate: 500}
	require.Equal(t, int64(1000), s.Due(0))
	require.Equal(t, int64(2_001_000), s.Due(1))
	require.Equal(t, int64(1000+16_000_000_000), s.Due(8000))
}

func TestLateBeyondAMillisecondCounts(t *testing.T) {
	s := Schedule{Begin: 0, Rate: 1000}
	by, late := s.Late(5, 6_000_000)
	require.Equal(t, int64(1_000_000), by)
	require.False(t, late, "exactly 1 ms is still in time")
	_, late = s.Late(5, 6_000_001)
	require.True(t, late)
	by, late = s.Late(5, 4_000_000)
	require.Zero(t, by, "early is not negative lateness")
	require.False(t, late)
}

func TestClosedLoopIsNeverLate(t *testing.T) {
	s := Schedule{Begin: 7}
	require.Equal(t, int64(7), s.Due(1_000_000))
	_, late := s.Late(3, 1<<40)
	require.False(t, late)
}
