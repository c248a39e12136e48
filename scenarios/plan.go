package scenarios

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twlab/twlab/internal/suggest"
	"github.com/twlab/twlab/lab"
)

// A Plan is a scenario resolved: all trials, in the order in which they run.
type Plan struct {
	Scenario *Scenario `json:"scenario"` // overrides applied; only the variants that run
	Seed     uint64    `json:"seed"`
	Trials   []Trial   `json:"trials"`
}

// A Trial is one variant, once, with everything that it needs to know.
type Trial struct {
	Number     int      `json:"number"` // in order of running, from 1
	Scenario   string   `json:"scenario"`
	Variant    string   `json:"variant"`
	Repetition int      `json:"repetition"` // from 1
	Seed       uint64   `json:"seed"`
	Settings   Settings `json:"settings"`
	// Parallel trials count, and may run beside others.
	Parallel bool `json:"parallel,omitempty"`
	// Destinations is the number of server addresses, "auto" resolved.
	Destinations int `json:"destinations"`
}

// Options shape a plan.
type Options struct {
	Seed   uint64
	Repeat int        // trials of each variant; 0 means 1
	Only   []string   // variants to run; none means all
	Set    []Override // for all variants, last
	// Machine plans for the stack of the machine itself: loopback, and no sysctl
	// is ever written.
	Machine bool
}

// Plan resolves the scenario with the user's choices. The seed decides the
// order of the trials: every repetition runs all variants, shuffled, so that
// whatever drifts on the machine meets all of them alike.
func (s *Scenario) Plan(o Options) (*Plan, error) {
	r := *s
	r.Variants = nil
	for _, name := range o.Only {
		if !slices.ContainsFunc(s.Variants, func(v Variant) bool { return v.Name == name }) {
			return nil, fmt.Errorf("scenario %s has no variant %s%s", s.Name, name, suggest.For(name, s.VariantNames()))
		}
	}
	for _, v := range s.Variants {
		if len(o.Only) > 0 && !slices.Contains(o.Only, v.Name) {
			continue
		}
		v.Settings = v.clone()
		for _, set := range o.Set {
			if err := set.apply(&v); err != nil {
				return nil, err
			}
		}
		if o.Machine {
			if err := v.onMachine(); err != nil {
				return nil, err
			}
		}
		if _, err := v.validate(); err != nil { // once all are set: they may need each other
			return nil, fmt.Errorf("variant %s: %w", v.Name, err)
		}
		r.Variants = append(r.Variants, v)
	}
	repeat := max(1, o.Repeat)
	if n := repeat * len(r.Variants); n > MaxTrials {
		return nil, fmt.Errorf("%d variants %d times are %d trials; %d are the most", len(r.Variants), repeat, n, MaxTrials)
	}
	// One number for all: variants differ in the one thing they are about.
	auto := 1
	for _, v := range r.Variants {
		auto = max(auto, v.destinations())
	}
	r.Parallel = s.Parallel && !o.Machine // one stack for all
	p := &Plan{Scenario: &r, Seed: o.Seed}
	rnd := rand.New(rand.NewPCG(o.Seed, 0))
	for rep := range repeat {
		first := len(p.Trials)
		for _, v := range r.Variants {
			t := Trial{
				Scenario: s.Name, Variant: v.Name, Repetition: rep + 1, Seed: o.Seed, Settings: v.Settings, Parallel: r.Parallel,
				Destinations: int(v.Traffic.Destinations),
			}
			if t.Destinations == 0 {
				t.Destinations = auto
			}
			p.Trials = append(p.Trials, t)
		}
		round := p.Trials[first:]
		rnd.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
	}
	for i := range p.Trials {
		p.Trials[i].Number = i + 1
		if o.Machine { // what one trial leaves in TIME_WAIT is not the next one's
			p.Trials[i].Settings.Traffic.Port += uint16(i)
		}
	}
	r.Expect = nil
	for _, e := range s.Expect {
		if !e.Needs(r.VariantNames()) {
			r.Expect = append(r.Expect, e)
		}
	}
	return p, nil
}

// onMachine fits a variant to the machine's own stack, or says why it cannot be.
func (v *Variant) onMachine() error {
	if len(v.Try) > 0 {
		return fmt.Errorf("variant %s tries sysctls: on the machine itself (--lab host) none is ever written; leave it to --lab netns", v.Name)
	}
	for _, sysctls := range []map[string]string{v.Sysctls, v.HoldSysctls} {
		for name := range sysctls {
			return fmt.Errorf("variant %s sets %s: on the machine itself (--lab host) no sysctl is ever written; leave it to --lab netns, "+
				"or choose other variants with --variant", v.Name, name)
		}
	}
	if v.Traffic.Silent > 0 {
		return fmt.Errorf("variant %s fills a SYN queue (traffic.silent): that is for the lab's own namespaces, not for the machine itself (--lab host)", v.Name)
	}
	if v.Proxy.runs() {
		return fmt.Errorf("variant %s runs %s as a host of its own: only --lab netns has one", v.Name, v.Proxy.Command[0])
	}
	if v.Link.Shared() {
		return nil
	}
	if slices.Contains(v.varies, "link") {
		return fmt.Errorf("variant %s needs link %s: the machine itself (--lab host) has only loopback", v.Name, v.Link)
	}
	v.Link = lab.Loopback
	return nil
}

// MaxTrials is the most trials of a plan.
const MaxTrials = 1000

// AddExpectations adds the user's own claims. They may name only variants that
// run.
func (p *Plan) AddExpectations(texts []string) error {
	for _, t := range texts {
		e, err := ParseExpectation(t, p.Scenario.Variants)
		if err != nil {
			return err
		}
		p.Scenario.Expect = append(p.Scenario.Expect, e)
	}
	return nil
}

// VariantNames lists the variants in the order of the file.
func (s *Scenario) VariantNames() []string { return names(s.Variants) }

// A Cost is what a trial is going to take.
type Cost struct {
	Requests    int64
	Connections int64
	Wall        time.Duration
	Files       int // open files of the busier driver
	// CPU is about how long the trial keeps a core busy, connections that fail
	// for want of a port left out.
	CPU time.Duration
}

// StartAndStop is what making and ending a world takes, with the wait for the
// last segments.
const StartAndStop = 300 * time.Millisecond

// What things take of a core, on both sides together, measured on a small
// machine: a request on a new connection; the samplers of a world, as a share.
const (
	perRequest = 100 * time.Microsecond
	perWorld   = 0.02
)

// otherFiles is what a driver opens beside its connections, with room.
const otherFiles = 24

// Cost forecasts what the trial takes. A closed loop is assumed to make 30,000
// requests a second.
func (t Trial) Cost() Cost {
	tr := t.Settings.Traffic
	c := Cost{
		Requests: tr.requests(), Connections: tr.connections() + int64(t.Settings.Population.Total()),
		Wall:  StartAndStop + tr.expected() + time.Duration(t.Settings.Hold),
		Files: tr.Concurrency + otherFiles,
	}
	c.Files += t.Settings.Population.open() + tr.Silent + tr.left()
	c.Wall += time.Duration(t.Settings.Population.Total()) * perRequest
	c.CPU = time.Duration(c.Requests+int64(t.Settings.Population.Total()))*perRequest + time.Duration(float64(c.Wall)*perWorld)
	return c
}

// Limit bounds the trial in time: what it may take at most, and a minute for
// making its world, for requests that never end and for the last segments.
func (t Trial) Limit() time.Duration {
	return t.Settings.Traffic.duration() + time.Duration(t.Settings.Traffic.Timeout) + time.Duration(t.Settings.Hold) + time.Minute
}

// Wall is how long the plan takes, one trial after another.
func (p *Plan) Wall() time.Duration {
	var sum time.Duration
	for _, t := range p.Trials {
		sum += t.Cost().Wall
	}
	return sum
}

// Files is the most open files that a driver of any trial needs.
func (p *Plan) Files() int {
	most := 0
	for _, t := range p.Trials {
		most = max(most, t.Cost().Files)
	}
	return most
}
