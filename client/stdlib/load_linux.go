// Package stdlib is the client engines that ask as programs in Go do: nethttp with
// net/http, sql with database/sql. Pools, retries and who closes first are the libraries' own,
// and what those leave to a race is a race here: package client/raw is for an exact order.
//
// The load, its pace and its counts are the same for both (load); an engine makes
// askers, each of which is one client of the library.
package stdlib

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/internal/conns"
	"github.com/twlab/twlab/internal/pace"
	"github.com/twlab/twlab/internal/sock"
)

const (
	reportEvery = 100 * time.Millisecond
	// endFor bounds the wait for connections that are on their way to be closed after the load.
	endFor = 5 * time.Second
	// seekBy is how far a worker that seeks moves its rest after a request; by chance it strays from it by
	// half as much again.
	seekBy = 200 * time.Microsecond
)

// An asker is one client of the library. It may be used by many workers at a time.
type asker interface {
	// ask makes a request and reads the answer.
	ask(ctx context.Context, to netip.AddrPort, s *shot) error
	// leave closes the idle connections.
	leave()
	owns() *owner
}

// An owner is what connections know of their asker. It is guarded by load.mu.
type owner struct{ left bool } // it was given up

func (o *owner) owns() *owner { return o }

// A shot is what became of one request. Its fields are guarded by load.mu where the library
// may still call back.
type shot struct {
	due   int64 // ns since the trial's start
	phase client.Phase
	link  *link // that carried it last
	busy  bool  // the link is counted as carrying it
	// answered says that an answer began to arrive, and reused that the link had carried a request before.
	answered, reused bool
}

// A link is a connection of a client.
type link struct {
	*conns.Conn
	owner *owner
	cause client.Cause // why it is going to end; "" while it is not known
	users int          // requests on it
}

// failure is a kind of them.
type failure struct {
	errno  string
	phase  client.Phase
	reused bool
}

// status is the failure of an answer that was whole, and not 200.
type status int

func (s status) Error() string { return fmt.Sprintf("status %d", int(s)) }

type load struct {
	client.Control
	client.Options
	make   func(*load) asker
	sched  pace.Schedule
	stop   int64 // when the load ends
	ticket atomic.Int64
	turn   atomic.Int64 // of the destinations
	dials  atomic.Int64 // under way: net/http goes on where another connection has taken the request
	tally  conns.Tally
	cpu    int64

	mu      sync.Mutex // guards what follows, and the fields of shots and links
	stats   client.Stats
	over    bool          // no request will start
	open    []func(error) // cancels the requests whose bodies were left open
	errs    map[failure]int64
	causes  map[client.Cause]int64 // of connections that ended
	connect client.Times
	tls     client.Times
	first   client.Times
	whole   client.Times
}

// Run does what o says and returns when all connections are closed, but for those that
// the program that it plays would leave open: they stay until ctx ends. When ctx ends it stops at once, with
// what was counted and the context's error.
func Run(ctx context.Context, o client.Options, c client.Control) (client.Stats, error) {
	if err := o.Validate(); err != nil {
		return client.Stats{}, err
	}
	now := c.Clock()
	d := &load{
		Control: c, Options: o, cpu: sock.CPU(), stop: now + int64(o.Duration), stats: client.Stats{Begin: now},
		sched: pace.Schedule{Begin: now, Rate: o.Rate, To: o.RampTo}, errs: map[failure]int64{}, causes: map[client.Cause]int64{},
		connect: client.NewTimes(), tls: client.NewTimes(), first: client.NewTimes(), whole: client.NewTimes(),
	}
	if o.RampTo > 0 {
		d.sched.Over = o.RampOver()
	}
	var err error
	if d.make, err = engine(o.Stdlib); err != nil {
		return client.Stats{}, err
	}
	reports, stop := context.WithCancel(ctx)
	var reporter sync.WaitGroup
	reporter.Go(func() { d.reports(reports) })
	defer reporter.Wait()
	defer stop()
	d.requests(ctx)
	d.end(ctx)
	defer func() {
		for _, cancel := range d.open {
			cancel(nil)
		}
	}()
	final := d.snapshot(true)
	if ctx.Err() != nil {
		return final, ctx.Err()
	}
	stop()
	reporter.Wait()
	if c.Loaded != nil {
		c.Loaded(final)
	}
	if d.Stdlib.Leaves() && d.tally.Live.Load() > 0 {
		<-ctx.Done()
		return final, ctx.Err()
	}
	return final, nil
}

// engine says how askers are made.
func engine(l client.Stdlib) (func(*load) asker, error) {
	if l.SQL {
		return newDatabase, nil
	}
	return httpEngine(l)
}

func (d *load) reports(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.Report(d.snapshot(false))
		}
	}
}

// A worker makes one request after another.
type worker struct {
	shared asker
	own    asker // of its own, where clients are given up
	used   int64 // requests by it
	moved  time.Duration
}

// requests runs the load.
func (d *load) requests(ctx context.Context) {
	workers := make([]*worker, d.Concurrency)
	var shared []asker
	for range max(1, d.Stdlib.Clients) {
		shared = append(shared, d.make(d))
	}
	for i := range workers {
		workers[i] = &worker{shared: shared[i%len(shared)]}
	}
	switch {
	case d.Rate > 0:
		d.openLoop(ctx, workers)
	case d.Stdlib.Burst:
		d.bursts(ctx, workers)
	default:
		each(workers, func(w *worker) {
			for n := d.take(); d.once(ctx, w, n) && d.rest(ctx, w); n = d.take() {
			}
		})
	}
	d.mu.Lock()
	d.over = true
	d.mu.Unlock()
	for _, w := range workers {
		d.leave(w)
	}
	for _, a := range shared {
		a.leave()
	}
}

// each runs something for all workers at a time.
func each(workers []*worker, do func(*worker)) {
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() { do(w) })
	}
	wg.Wait()
}

// take returns the number of the next request, from 0.
func (d *load) take() int64 { return d.ticket.Add(1) - 1 }

// bursts has all workers make one request at a time, again and again.
func (d *load) bursts(ctx context.Context, workers []*worker) {
	for more := true; more; {
		var ended atomic.Bool
		each(workers, func(w *worker) {
			if !d.once(ctx, w, d.take()) {
				ended.Store(true)
			}
		})
		more = !ended.Load() && d.rest(ctx, workers[0])
	}
}

// openLoop hands requests to workers as they are due. One goroutine sleeps for all in the kernel: Go's timers are late by
// up to a millisecond where a thread waits in epoll (runtime/netpoll_epoll.go).
func (d *load) openLoop(ctx context.Context, workers []*worker) {
	due := make(chan int64)
	go func() { // ends with the load
		defer close(due)
		for n := d.take(); d.Count == 0 || n < d.Count; n = d.take() {
			at := d.sched.Due(n)
			for now := d.Clock(); now < min(at, d.stop) && ctx.Err() == nil; now = d.Clock() {
				nap := unix.NsecToTimespec(min(at-now, int64(reportEvery)))
				_ = unix.Nanosleep(&nap, nil) // a signal cuts it short, and the loop goes on
			}
			select {
			case due <- n:
			case <-ctx.Done():
				return
			}
			if d.Clock() >= d.stop {
				return
			}
		}
	}()
	each(workers, func(w *worker) {
		for n := range due {
			d.once(ctx, w, n)
		}
	})
}

// leave has a worker give its own asker up.
func (d *load) leave(w *worker) {
	if w.own == nil {
		return
	}
	d.mu.Lock()
	w.own.owns().left = true
	d.mu.Unlock()
	if !d.Stdlib.Abandon {
		w.own.leave()
	}
	w.own, w.used = nil, 0
}

// rest pauses, and says whether time is left.
func (d *load) rest(ctx context.Context, w *worker) bool {
	pause := d.Stdlib.Rest
	if pause == 0 || d.Count > 0 && d.ticket.Load() >= d.Count {
		return ctx.Err() == nil
	}
	chance := 2*rand.Float64() - 1 //nolint:gosec // chance, not secrecy
	switch {
	case d.Stdlib.Seek:
		pause += w.moved + time.Duration(chance*1.5*float64(seekBy))
	case !d.Stdlib.Burst: // workers must not march in step
		pause += time.Duration(chance / 2 * float64(pause))
	}
	until := d.Clock() + int64(pause)
	timer := time.NewTimer(time.Duration(min(until, d.stop) - d.Clock()))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return until < d.stop && ctx.Err() == nil
}

// once makes request n, and says whether it is one of the load.
func (d *load) once(ctx context.Context, w *worker, n int64) bool {
	now := d.Clock()
	if d.Count > 0 && n >= d.Count || now >= d.stop || ctx.Err() != nil {
		return false
	}
	a := w.shared
	if d.Stdlib.PerClient > 0 {
		if w.own == nil {
			w.own = d.make(d)
		}
		a = w.own
	}
	s := &shot{due: d.sched.From(n, now), phase: client.Connect}
	d.mu.Lock()
	d.stats.Started++
	if by, late := d.sched.Late(n, now); late {
		d.stats.Late++
		d.stats.LateMost = max(d.stats.LateMost, by)
	}
	d.mu.Unlock()

	one, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(d.Timeout, func() { cancel(os.ErrDeadlineExceeded) })
	to := d.Destinations[int(d.turn.Add(1)-1)%len(d.Destinations)]
	err := a.ask(one, to, s)
	took := d.Clock() - s.due
	timer.Stop()
	if cause := context.Cause(one); err != nil && cause != nil {
		err = cause
	}
	d.ended(w, s, err, took)
	if d.Stdlib.Read == client.LeaveOpen {
		d.mu.Lock()
		d.open = append(d.open, cancel)
		d.mu.Unlock()
	} else {
		cancel(nil)
	}
	if w.used++; w.used == d.Stdlib.PerClient {
		d.leave(w)
	}
	return ctx.Err() == nil
}
