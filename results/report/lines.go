package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/scenarios"
)

// A Line is what a line of a sysctl.conf came to.
type Line struct {
	lab.SysctlLine
	// Outcome is one sentence: why it was not set, or what it moved.
	Outcome string `json:"outcome"`
	// Moved lists metrics that differ from the run before it.
	Moved []Movement `json:"moved"`
}

// A Movement is a metric that a line changed.
type Movement struct {
	Variant string `json:"variant"` // the kind of traffic
	Metric  string `json:"metric"`
	Text    string `json:"text"` // "100 -> 180"
}

// telling are the metrics that lines are judged by: what users see, and what
// the knobs are about.
var telling = []string{
	"client.connections.opened", "client.requests.failed",
	"client.time_wait.end", "server.time_wait.end", "client.time_wait.life", "server.time_wait.life",
	"client.fin_wait2.end", "client.fin_wait2.life",
	"client.timewait_socks.recycled", "stack.timewait_socks.recycled",
	"server.syn_recv.peak", "server.syncookies.received", "server.listener.drops", "server.listener.overflows",
}

// One trial of each stands against one: differences below these are taken for noise.
const (
	noiseShare   = 0.1
	noiseSockets = 10
	noiseSeconds = 2.5 // the timer wheel adds up to 2.1 s to a life
)

// lines judges the lines of the scenario's sysctl.conf.
func (r *Report) lines() []Line {
	s := r.Run.Plan.Scenario
	var out []Line
	for _, l := range s.SysctlLines {
		line := Line{SysctlLine: l, Moved: []Movement{}}
		if err := l.Namespaced(); err != nil {
			line.Outcome = err.Error()
			out = append(out, line)
			continue
		}
		tried, ok := r.tried(l.Number)
		switch {
		case !ok:
			line.Outcome = "it was not run"
		case tried.Refused != "":
			line.Outcome = tried.Refused
		default:
			line.Moved = append(line.Moved, r.moved(l.Number)...)
			line.Outcome = outcome(line.Moved, tried)
		}
		out = append(out, line)
	}
	return out
}

func outcome(moved []Movement, tried lab.TriedSysctl) string {
	if len(moved) == 0 {
		if tried.Before == tried.After {
			return "moved nothing: it was " + tried.Before + " before"
		}
		return fmt.Sprintf("%s -> %s: moved nothing", tried.Before, tried.After)
	}
	var parts []string
	for _, m := range moved {
		parts = append(parts, fmt.Sprintf("%s: %s %s", m.Variant, m.Metric, m.Text))
	}
	return fmt.Sprintf("%s -> %s: %s", tried.Before, tried.After, strings.Join(parts, "; "))
}

// tried is what became of a line on the stacks that had it alone.
func (r *Report) tried(number int) (lab.TriedSysctl, bool) {
	for _, v := range r.Run.Plan.Scenario.Variants {
		if v.Line != number {
			continue
		}
		for _, rec := range r.Run.Variant(v.Name) {
			if len(rec.Stacks) > 0 && len(rec.Stacks[0].Tried) > 0 {
				return rec.Stacks[0].Tried[0], true
			}
		}
	}
	return lab.TriedSysctl{}, false
}

// moved compares the variants that have the line alone with those before it.
func (r *Report) moved(number int) []Movement {
	var out []Movement
	for _, v := range r.Run.Plan.Scenario.Variants {
		if v.Line != number {
			continue
		}
		with, before := r.variant(v.Name), r.variant(v.Baseline)
		if with == nil || before == nil {
			continue
		}
		for _, name := range telling {
			if text, ok := movement(name, v, *before, *with); ok {
				out = append(out, Movement{strings.TrimPrefix(v.Baseline, "before-"), name, text})
			}
		}
	}
	return out
}

func (r *Report) variant(name string) *results.VariantSummary {
	i := slices.IndexFunc(r.Variants, func(v results.VariantSummary) bool { return v.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Variants[i]
}

// movement says how a metric differs, where it does beyond noise. A life that
// did not end is longer than the hold.
func movement(name string, v scenarios.Variant, before, with results.VariantSummary) (text string, ok bool) {
	a, known := before.Value(name)
	b, known2 := with.Value(name)
	isLife := strings.HasSuffix(name, ".life")
	longer := "over " + time.Duration(v.Hold).String()
	switch {
	case !known && !known2:
		return "", false
	case isLife && !known:
		return longer + " -> " + format(b, name), true
	case isLife && !known2:
		return format(a, name) + " -> " + longer, true
	case !known || !known2:
		return "", false
	}
	noise := math.Max(noiseSockets, noiseShare*math.Max(a, b))
	if isLife {
		noise = noiseSeconds
	}
	if math.Abs(a-b) <= noise {
		return "", false
	}
	return format(a, name) + " -> " + format(b, name), true
}
