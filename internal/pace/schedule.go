// Package pace holds clocks and schedules: when things happen, in nanoseconds
// of CLOCK_MONOTONIC since the start of a trial.
//
// It does not sleep: a driver waits in its own epoll loop.
package pace

import "time"

// Tolerance is how late a start may be before it counts as late.
const Tolerance = time.Millisecond

// A Schedule says when each start of an open loop is due: one every 1/rate
// seconds, whatever became of the ones before. The zero rate is a closed loop:
// everything is due at once, nothing is ever late.
type Schedule struct {
	Begin int64   // due time of start 0, ns since the trial's start
	Rate  float64 // starts per second; 0: closed loop
}

// Due returns when start i (from 0) is due, in ns since the trial's start.
func (s Schedule) Due(i int64) int64 {
	if s.Rate == 0 {
		return s.Begin
	}
	return s.Begin + int64(float64(i)/s.Rate*1e9)
}

// Late returns by how many nanoseconds start i is late at now, and whether
// that is beyond Tolerance.
func (s Schedule) Late(i, now int64) (by int64, late bool) {
	if s.Rate == 0 {
		return 0, false
	}
	by = max(0, now-s.Due(i))
	return by, by > int64(Tolerance)
}
