// Package pace holds clocks and schedules: when things happen, in nanoseconds
// of CLOCK_MONOTONIC since the start of a trial.
//
// It does not sleep: a driver waits in its own epoll loop.
package pace

import (
	"math"
	"time"
)

// Tolerance is how late a start may be before it counts as late.
const Tolerance = time.Millisecond

// A Schedule says when each start of an open loop is due, whatever became of
// the ones before. The zero rate is a closed loop: everything is due at once,
// nothing is ever late.
type Schedule struct {
	Begin int64   // due time of start 0, ns since the trial's start
	Rate  float64 // starts per second; 0: closed loop
	// A ramp: after Over the rate has risen (or fallen) evenly to To, and stays
	// there. Over zero: no ramp.
	To   float64
	Over time.Duration
}

// Due returns when start i (from 0) is due, in ns since the trial's start.
func (s Schedule) Due(i int64) int64 {
	if s.Rate == 0 {
		return s.Begin
	}
	n := float64(i)
	if s.Over == 0 || s.To == s.Rate {
		return s.Begin + int64(n/s.Rate*1e9)
	}
	// Starts until t: Rate t + a t^2 / 2, with a the change of the rate.
	over := s.Over.Seconds()
	a := (s.To - s.Rate) / over
	if inRamp := (s.Rate + s.To) / 2 * over; n >= inRamp {
		return s.Begin + int64((over+(n-inRamp)/s.To)*1e9)
	}
	return s.Begin + int64((math.Sqrt(s.Rate*s.Rate+2*a*n)-s.Rate)/a*1e9)
}

// From returns from when start i, which happens at now, is timed: from when it was due, so that waiting
// for its turn counts (coordinated omission); a closed loop has no such moment, and takes now.
func (s Schedule) From(i, now int64) int64 {
	if s.Rate == 0 {
		return now
	}
	return s.Due(i)
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
