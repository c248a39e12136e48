package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/results"
)

// A condition is what all variants ran under.
type condition struct{ what, text string }

// conditions say what all variants ran under, and what twlab chose by itself.
// What varies is not among them.
func (r *Report) conditions() []condition {
	rec := r.Run.Records[0]
	e, set := rec.Environment, rec.Trial.Settings
	varied := map[string]bool{}
	for _, row := range r.variations() {
		varied[strings.TrimSpace(row.label)] = true
	}
	var parts []string
	add := func(path, format string, args ...any) {
		if !varied[path] {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	t := set.Traffic
	if len(set.Population) > 0 {
		add("population", "held %s", strings.ReplaceAll(set.Population.String(), ",", ", "))
	}
	if t.Count > 0 {
		add("traffic.count", "%s requests", thousands(t.Count))
	}
	switch {
	case t.ConnectionRate > 0:
		add("traffic.connection_rate", "%s connections/s", thousands(int64(t.ConnectionRate)))
	case t.Rate > 0:
		add("traffic.rate", "%s/s", thousands(int64(t.Rate)))
	case t.Count > 0 || t.Duration > 0:
		add("traffic.rate", "as fast as they are answered")
	}
	if t.RampTo > 0 {
		add("traffic.ramp_to", "going to %s/s", thousands(int64(t.RampTo)))
	}
	if t.Duration > 0 {
		add("traffic.duration", "for %s", t.Duration)
	}
	if t.Count > 0 || t.Duration > 0 {
		add("traffic.concurrency", "at most %s at a time", thousands(int64(t.Concurrency)))
	}
	dests := fmt.Sprintf("%d destinations", rec.Trial.Destinations)
	if rec.Trial.Destinations == 1 {
		dests = "1 destination"
	}
	if t.Destinations == 0 {
		dests += " (auto)"
	}
	add("traffic.destinations", "%s", dests)
	add("hold", "held %s", set.Hold)
	add("link", "link %s", set.Link)
	where := fmt.Sprintf("Linux %s %s, %d CPUs (%s), %s lab, seed %d, twlab %s",
		e.Kernel, e.Arch, e.CPUs, e.CPU, e.Backend, r.Run.Plan.Seed, e.Twlab)
	sysctls := "defaults of this kernel, and " + strings.Join(r.commonSysctls(), ", ")
	if e.Backend == "host" {
		sysctls = "this machine's own, as they are"
	}
	return []condition{
		{"traffic", strings.Join(parts, ", ")},
		{"machine", strings.Replace(where, " ()", "", 1)},
		{"sysctls", sysctls},
		{"changes", r.changes()},
	}
}

// changes says whether changes of state were counted one by one.
func (r *Report) changes() string {
	n, why := int64(0), "the records are from before there was tracing"
	for _, rec := range r.Run.Records {
		if rec.Environment.Untraced != "" {
			why = rec.Environment.Untraced
		}
		for _, s := range rec.Stacks {
			for _, t := range s.Transitions {
				n += t.N
			}
		}
	}
	if n == 0 {
		return "of state not traced: " + why + "; what is shown are samples, and counters of the kernel"
	}
	return fmt.Sprintf("%s changes of state traced one by one (--format md lists them)", thousands(n))
}

// commonSysctls are those that were set to the same value in all trials.
func (r *Report) commonSysctls() []string {
	names := map[string]bool{}
	for n := range lab.Pinned {
		names[n] = true
	}
	for n := range r.Run.Records[0].Trial.Settings.Sysctls {
		names[n] = true
	}
	var out []string
	for n := range names {
		value := r.Run.Records[0].Stacks[0].Sysctls[n]
		same := !slices.ContainsFunc(r.Run.Records, func(rec *results.Record) bool { return rec.Stacks[0].Sysctls[n] != value })
		if same {
			out = append(out, n+"="+value)
		}
	}
	slices.Sort(out)
	return out
}

// widestSetting is where the value of a setting is cut off: its column should
// not be wider than those of the figures.
const widestSetting = 24

// variations are the settings in which the variants differ.
func (r *Report) variations() []row {
	var out []row
	for _, v := range r.Run.Plan.Scenario.Variations() {
		cells := v.Values
		for i, value := range cells {
			if value == "" {
				cells[i] = "-"
			}
			if len(value) > widestSetting {
				cells[i] = value[:widestSetting-3] + "..."
			}
		}
		out = append(out, row{label: "  " + v.Path, cells: cells})
	}
	if len(out) > 0 {
		out = append([]row{{label: "what varies", head: true}}, out...)
	}
	return out
}
