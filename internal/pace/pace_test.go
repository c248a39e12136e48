package pace

import (
	"testing"
	"time"

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

func TestAStartIsTimedFromWhenItWasDue(t *testing.T) {
	require.Equal(t, int64(5_000_000), Schedule{Rate: 1000}.From(5, 9_000_000), "it waited for 4 ms, and they count")
	require.Equal(t, int64(9_000_000), Schedule{Begin: 7}.From(5, 9_000_000), "in a closed loop none was due before")
}

func TestRampRisesEvenlyAndStays(t *testing.T) {
	s := Schedule{Rate: 100, To: 300, Over: 2 * time.Second}
	// 400 starts within the ramp; half of its time has passed after 150.
	require.Equal(t, int64(0), s.Due(0))
	require.InDelta(t, 1e9, s.Due(150), 10)
	require.InDelta(t, 2e9, s.Due(400), 10)
	require.InDelta(t, 3e9, s.Due(700), 10)
	down := Schedule{Rate: 300, To: 100, Over: 2 * time.Second}
	require.InDelta(t, 1e9, down.Due(250), 10)
	require.InDelta(t, 3e9, down.Due(500), 10)
	for i := range int64(800) {
		require.Less(t, s.Due(i), s.Due(i+1))
		require.Less(t, down.Due(i), down.Due(i+1))
	}
}
