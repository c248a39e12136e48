package client

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency sums up how long something took, in ns, to three digits.
type Latency struct {
	Count int64 `json:"count"`
	P50   int64 `json:"p50_ns"`
	P90   int64 `json:"p90_ns,omitempty"`
	P99   int64 `json:"p99_ns"`
	P999  int64 `json:"p999_ns,omitempty"`
	Most  int64 `json:"most_ns"`
	// Distribution is all of it, as HdrHistogram writes its V2 format: compressed, in base64.
	Distribution string `json:"distribution,omitempty"`
}

// Histogram decodes the Distribution, in ns.
func (l *Latency) Histogram() (*hdrhistogram.Histogram, error) {
	return hdrhistogram.Decode([]byte(l.Distribution))
}

// Times collects how long something took. It belongs to one goroutine. Make one with NewTimes.
type Times struct{ h *hdrhistogram.Histogram }

// longest is what no request outlives; what takes longer counts as this.
const longest = int64(time.Hour)

// NewTimes returns one that is empty.
func NewTimes() Times { return Times{hdrhistogram.New(1, longest, 3)} }

// Add records one, in ns.
func (t Times) Add(ns int64) { _ = t.h.RecordValue(min(max(1, ns), longest)) } // no other is refused

// Sum sums up; nil where nothing was recorded.
func (t Times) Sum() *Latency {
	n := t.h.TotalCount()
	if n == 0 {
		return nil
	}
	p := t.h.ValueAtPercentiles([]float64{50, 90, 99, 99.9})
	l := &Latency{Count: n, P50: p[50], P90: p[90], P99: p[99], P999: p[99.9], Most: t.h.Max()}
	if b, err := t.h.EncodeV2(); err == nil { // it writes to memory, and cannot fail
		l.Distribution = string(b)
	}
	return l
}
