package pace

import (
	"time"

	"golang.org/x/sys/unix"
)

// Monotonic returns CLOCK_MONOTONIC now, in ns. It is the same in every
// network, user and PID namespace of one kernel, and in every process.
func Monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("clock_gettime(CLOCK_MONOTONIC): " + err.Error()) // cannot fail on Linux
	}
	return ts.Nano()
}

// A Clock tells the time since an epoch. It reads the vDSO through the
// standard library; a plain clock_gettime would be a system call. It may be
// copied and used by several goroutines.
type Clock struct {
	base time.Time
	at   int64 // ns since the epoch at base
}

// NewClock returns a clock that reads 0 at the given value of CLOCK_MONOTONIC.
func NewClock(epoch int64) Clock {
	return Clock{base: time.Now(), at: Monotonic() - epoch}
}

// Now returns ns since the epoch.
func (c Clock) Now() int64 { return c.at + int64(time.Since(c.base)) }
