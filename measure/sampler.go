package measure

import (
	"context"
	"fmt"
	"time"
)

// A CounterReader reads the counters of a stack.
type CounterReader interface {
	Counters() (Counters, error)
}

// A SocketReader visits every TCP socket of a stack. consistent is false where
// the kernel said that the table changed under the walk.
type SocketReader interface {
	Sockets(visit func(Socket)) (consistent bool, err error)
}

// Options says how often a Sampler looks. Zero values mean the defaults.
type Options struct {
	// Counters is the time between two readings of counters; 100 ms.
	Counters time.Duration `json:"counters_interval_ns"`
	// Dumps is the least time between two walks over all sockets; 250 ms. A
	// walk of length d is followed by at least 40 d without one, so that
	// looking takes no more than about 2 % of one core: walks pass every
	// TIME_WAIT socket and slow the traffic that is being measured.
	Dumps time.Duration `json:"dumps_interval_ns"`
}

const dumpShare = 40

func (o Options) withDefaults() Options {
	if o.Counters == 0 {
		o.Counters = 100 * time.Millisecond
	}
	if o.Dumps == 0 {
		o.Dumps = 250 * time.Millisecond
	}
	return o
}

// Cost is what a Sampler did and what that took.
type Cost struct {
	Options
	Snapshots    int   `json:"snapshots"`
	Dumps        int   `json:"dumps"`
	Inconsistent int   `json:"dumps_inconsistent"` // the table changed under the walk
	Late         int   `json:"late"`               // readings of counters more than one interval late
	DumpLongest  int64 `json:"dump_longest_ns"`
	DumpTotal    int64 `json:"dump_total_ns"`
	CPU          int64 `json:"cpu_ns"` // of the sampling process, over load and hold
}

// A Sampler takes snapshots of one stack. Its methods may be called by several
// goroutines.
type Sampler struct {
	hosts    []Host
	counters CounterReader
	sockets  SocketReader
	clock    func() int64
	opts     Options
	out      func(Snapshot)

	// Owned by whoever holds turn.
	turn     chan struct{}
	phase    string
	cost     Cost
	nextDump int64
	lastDump int64 // how long the last walk took, ns
}

// NewSampler returns a sampler that hands every snapshot to out, one at a time.
// clock returns ns since the start of the trial.
func NewSampler(hosts []Host, c CounterReader, s SocketReader, clock func() int64, o Options, out func(Snapshot)) *Sampler {
	o = o.withDefaults()
	return &Sampler{
		hosts: hosts, counters: c, sockets: s, clock: clock, opts: o, out: out,
		turn: make(chan struct{}, 1), cost: Cost{Options: o},
	}
}

// Mark starts a phase with a full snapshot, which belongs to that phase, and
// returns it.
func (s *Sampler) Mark(phase string) (Snapshot, error) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.phase = phase
	return s.look(true)
}

// Run takes snapshots until ctx ends. A phase must have been marked before.
func (s *Sampler) Run(ctx context.Context) error {
	tick := time.NewTicker(s.opts.Counters)
	defer tick.Stop()
	for due := s.clock() + int64(s.opts.Counters); ; due += int64(s.opts.Counters) {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s.turn <- struct{}{}
		now := s.clock()
		if behind := now - due; behind > int64(s.opts.Counters) {
			missed := behind / int64(s.opts.Counters)
			s.cost.Late += int(missed)
			due += missed * int64(s.opts.Counters)
		}
		_, err := s.look(now >= s.nextDump)
		<-s.turn
		if err != nil {
			return err
		}
	}
}

// Cost returns what was done so far. The caller adds the CPU time.
func (s *Sampler) Cost() Cost {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	return s.cost
}

func (s *Sampler) look(dump bool) (Snapshot, error) {
	snap := Snapshot{Phase: s.phase, Begin: s.clock()}
	var err error
	if snap.Counters, err = s.counters.Counters(); err != nil {
		return snap, fmt.Errorf("read counters: %w", err)
	}
	if dump {
		begin := s.clock()
		consistent, err := s.walk(&snap)
		if err != nil {
			return snap, fmt.Errorf("list sockets: %w", err)
		}
		if !consistent {
			s.cost.Inconsistent++
		}
		took := s.clock() - begin
		s.cost.Dumps++
		s.cost.DumpTotal += took
		s.cost.DumpLongest = max(s.cost.DumpLongest, took)
		// The lesser of two: a walk that had to wait for the CPU took long and
		// cost no more than the one before.
		cost := took
		if s.cost.Dumps > 1 {
			cost = min(took, s.lastDump)
		}
		s.lastDump = took
		// Half an interval of slack, or every second tick of the ticker would
		// come a little too early for the dump it was meant for.
		s.nextDump = begin + max(int64(s.opts.Dumps)-int64(s.opts.Counters)/2, dumpShare*cost)
	}
	snap.End = s.clock()
	s.cost.Snapshots++
	s.out(snap)
	return snap, nil
}

func (s *Sampler) walk(snap *Snapshot) (consistent bool, err error) {
	type slot struct {
		host   int
		family Family
	}
	counts := map[slot]*[Closing + 1]int{}
	consistent, err = s.sockets.Sockets(func(k Socket) {
		if k.State < Established || k.State > Closing {
			return
		}
		for i, h := range s.hosts {
			if !h.owns(k) {
				continue
			}
			c := counts[slot{i, k.Family}]
			if c == nil {
				c = new([Closing + 1]int)
				counts[slot{i, k.Family}] = c
			}
			c[k.State]++
			if k.State == FinWait2 && k.TimewaitRow {
				snap.Minisocks++
			}
			return
		}
	})
	snap.Sockets = Table{}
	for _, h := range s.hosts {
		snap.Sockets[h.Name] = map[Family]Counts{}
	}
	for at, c := range counts {
		byState := Counts{}
		for st, n := range c {
			if n > 0 {
				byState[State(st)] = n
			}
		}
		snap.Sockets[s.hosts[at.host].Name][at.family] = byState
	}
	return consistent, err
}
