package pace

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClockAgreesWithTheKernel(t *testing.T) {
	epoch := Monotonic() - 5e9
	c := NewClock(epoch)
	for range 20 {
		before := Monotonic() - epoch
		now := c.Now()
		after := Monotonic() - epoch
		require.LessOrEqual(t, before-int64(time.Millisecond), now)
		require.GreaterOrEqual(t, after+int64(time.Millisecond), now)
	}
}
