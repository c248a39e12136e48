// Package raw is the client engine that makes its own system calls: HTTP/1.1
// over non-blocking sockets and epoll on one locked thread. The order of
// closing is exact, and the cost of a connection is almost all the kernel's.
package raw

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/internal/pace"
	"github.com/twlab/twlab/internal/sock"
)

const (
	reportEvery = 100e6 // ns
	// drainFor bounds the wait for the server's FIN on pooled connections
	// after the load, in ns.
	drainFor = 5e9
	// slowFor ends before a SYN+ACK is sent again, which takes a second
	// (TCP_TIMEOUT_INIT in include/net/tcp.h), in ns.
	slowFor = 500e6
)

type stage uint8

const (
	unused     stage = iota
	connecting       // the request is not sent yet
	waiting          // for the answer
	ending           // for the server's FIN, after the answer
	idle             // in the pool
	half             // closed by half: for the server's FIN, the request long done
)

type conn struct {
	stage    stage
	reused   bool
	sent     int64  // requests so far
	begun    int64  // connect() was called, ns since the trial start
	due      int64  // when the request was, ns since the trial's start
	begins   bool   // the next bytes are the answer's first
	deadline int64  // ns since the trial's start
	part     []byte // of a head that came in pieces
	left     int    // bytes of the answer that are still to come; 0: its head is
	last     bool   // the answer says "Connection: close"
	status   int    // of the answer
}

// Failures that have no errno of their own use numbers beyond the kernel's.
const (
	errEOF    unix.Errno = 1 << 16
	errStatus unix.Errno = 1 << 17 // and the status of an answer that is not 200
)

type failure struct {
	errno  unix.Errno
	phase  client.Phase
	reused bool
}

type driver struct {
	client.Control
	client.Options
	loop   *sock.Loop
	dests  []*sock.Addr
	srcs   []*sock.Addr
	halves int // connections closed by half
	held   *population
	slow   []int // connections that drop what arrives
	loaded bool
	conns  []conn // by file descriptor
	pool   []int  // idle connections, the one that rested longest first
	active int    // requests under way
	turn   int    // of the destinations
	sched  pace.Schedule
	stop   int64 // when the load ends
	report int64 // when the next report is due
	drain  int64 // when waiting for the pool's end is given up; 0: load goes on
	stats  client.Stats
	errs   map[failure]int64
	took   client.Times // from connect() to an open connection
	first  client.Times // until an answer began
	whole  client.Times // until it was there
	cpu    int64
	buf    []byte
}

// Run does what o says and returns when all connections are closed; those
// closed by half may wait for the server until ctx ends. When ctx
// ends it stops at once, with what was counted and the context's error. It
// needs Concurrency and about ten more file descriptors.
func Run(ctx context.Context, o client.Options, c client.Control) (client.Stats, error) {
	if err := o.Validate(); err != nil {
		return client.Stats{}, err
	}
	ep, err := sock.NewEpoll()
	if err != nil {
		return client.Stats{}, err
	}
	defer ep.Close()
	held, err := hold(ctx, o.Held, c)
	defer held.close()
	if err != nil {
		return client.Stats{}, err
	}
	if err := held.silent(o, c); err != nil {
		return client.Stats{}, err
	}
	now := c.Clock()
	d := &driver{
		Control: c, Options: o, errs: map[failure]int64{}, buf: make([]byte, 64<<10), cpu: sock.CPU(),
		took: client.NewTimes(), first: client.NewTimes(), whole: client.NewTimes(), sched: pace.Schedule{Begin: now, Rate: o.Rate, To: o.RampTo}, stop: now + int64(o.Duration), report: now + reportEvery,
		stats: client.Stats{Begin: now},
	}
	d.held = held
	if !o.Loads() {
		d.stop = now
	}
	if o.RampTo > 0 {
		d.sched.Over = o.RampOver()
	}
	for _, a := range o.Destinations {
		d.dests = append(d.dests, sock.NewAddr(a))
	}
	for _, a := range o.Sources {
		d.srcs = append(d.srcs, sock.NewAddr(netip.AddrPortFrom(a, o.Port)))
	}
	d.loop = &sock.Loop{Epoll: ep, Next: d.next, Event: d.event}
	err = d.loop.Run(ctx)
	for fd := range d.conns { // none are left unless ctx ended or the drain was given up
		switch d.conns[fd].stage {
		case unused:
		case half:
			sock.Close(fd)
		default:
			d.end(fd, &d.stats.ClosedFailed)
		}
	}
	if !d.loaded {
		d.stats.End = c.Clock()
	}
	return d.snapshot(), err
}

// next starts what is due and says when there is more to do.
func (d *driver) next() (at int64, done bool) {
	now := d.Clock()
	if now >= d.report {
		d.expire(now)
		d.Report(d.snapshot())
		d.report = now + reportEvery
		d.refill()
	}
	wake := d.report
	if len(d.slow) > 0 {
		if listen := d.stats.Begin + slowFor; now < listen {
			wake = min(wake, listen)
		} else {
			d.listen()
		}
	}
	for n := 0; d.more(now) && d.active < d.Concurrency; n++ {
		due := d.sched.Due(d.stats.Started)
		if due > now {
			wake = min(wake, due)
			break
		}
		if n == d.Concurrency { // starts that fail at once must not starve those under way
			wake = now
			break
		}
		if by, late := d.sched.Late(d.stats.Started, now); late {
			d.stats.Late++
			d.stats.LateMost = max(d.stats.LateMost, by)
		}
		d.start(now, d.sched.From(d.stats.Started, now))
		if d.Rate > 0 {
			now = d.Clock() // starting takes time, and the next one's lateness counts
		}
	}
	if d.active == 0 && !d.more(now) {
		if d.drain == 0 {
			d.drain = now + drainFor
			d.closePool()
			if len(d.held.fds) > 0 && d.Idle != nil { // for sockets that wait for the server's FIN
				d.Idle()
			}
		}
		if len(d.pool) == 0 || now >= d.drain {
			if !d.loaded {
				d.loaded = true
				d.stats.End = now
				if d.Loaded != nil {
					d.Loaded(d.snapshot())
				}
			}
			if d.halves == 0 && len(d.held.fds) == 0 && d.Refill == nil {
				return 0, true
			}
		}
	}
	return d.Epoch + wake, false
}

// listen lets the slow connections hear again.
func (d *driver) listen() {
	for _, fd := range d.slow {
		_ = sock.DropNone(fd) // one that has timed out has nothing to hear
	}
	d.slow = nil
}

// more says whether the load has requests left to start.
func (d *driver) more(now int64) bool {
	return d.drain == 0 && now < d.stop && (d.Count == 0 || d.stats.Started < d.Count)
}

func (d *driver) start(now, due int64) {
	d.stats.Started++
	d.active++
	deadline := now + int64(d.Timeout)
	if len(d.pool) > 0 && len(d.pool)+d.active > d.Concurrency { // the pool is full
		fd := d.pool[0]
		d.pool = d.pool[1:]
		c := &d.conns[fd]
		c.stage, c.reused, c.deadline, c.due, c.begins = waiting, true, deadline, due, true
		c.sent++
		d.stats.Reused++
		if e := d.send(fd); e != 0 {
			d.fail(fd, e, client.Send)
		}
		return
	}
	dest := d.dests[d.turn%len(d.dests)]
	d.turn++
	d.stats.Attempted++
	fd, e := sock.Socket(dest)
	if e != 0 {
		d.refused(e)
		return
	}
	if d.Closing == client.Both {
		if e := sock.HoldFIN(fd); e != 0 {
			sock.Close(fd)
			d.refused(e)
			return
		}
	}
	if len(d.srcs) > 0 {
		src := d.srcs[(d.turn-1)/len(d.dests)%len(d.srcs)]
		if d.ReuseAddress {
			_ = sock.ReuseAddress(fd) // what bind() says counts
		}
		if e := sock.Bind(fd, src, d.EarlyPort || d.Port > 0); e != 0 {
			sock.Close(fd)
			d.refused(e)
			return
		}
	}
	if d.stats.Attempted <= d.Slow {
		d.slow = append(d.slow, fd)
		if e := sock.DropAll(fd); e != 0 {
			sock.Close(fd)
			d.refused(e)
			return
		}
	}
	begun := d.Clock()
	if e := sock.Connect(fd, dest); e != 0 && e != unix.EINPROGRESS {
		sock.Close(fd)
		d.refused(e)
		return
	}
	for fd >= len(d.conns) {
		d.conns = append(d.conns, make([]conn, len(d.conns)+64)...)
	}
	d.conns[fd] = conn{stage: connecting, sent: 1, begun: begun, deadline: deadline, due: due, begins: true, part: d.conns[fd].part[:0]}
	// On one machine the handshake is usually over when connect() returns.
	watch := uint32(unix.EPOLLIN)
	switch e := d.send(fd); e {
	case 0:
		d.established(fd)
	case unix.EAGAIN:
		watch = unix.EPOLLOUT
	default:
		d.fail(fd, e, client.Connect)
		return
	}
	if e := d.loop.Add(fd, watch); e != 0 {
		d.fail(fd, e, client.Connect)
	}
}

func (d *driver) established(fd int) {
	d.stats.Opened++
	d.stats.Fresh++
	d.conns[fd].stage = waiting
	d.took.Add(d.Clock() - d.conns[fd].begun)
}

func (d *driver) send(fd int) unix.Errno {
	req := sock.RequestClose
	if d.Keepalive {
		req = sock.RequestKeep
	}
	n, e := sock.Send(fd, req)
	if e == 0 && n < len(req) {
		return unix.ENOBUFS // 60 bytes always fit into an empty send buffer
	}
	return e
}

func (d *driver) event(fd int, _ uint32) {
	c := &d.conns[fd]
	switch c.stage {
	case connecting:
		if e := sock.ConnectError(fd); e != 0 {
			d.fail(fd, e, client.Connect)
			return
		}
		switch e := d.send(fd); e {
		case 0:
			d.established(fd)
		case unix.EAGAIN:
			return
		default:
			d.established(fd)
			d.fail(fd, e, client.Send)
			return
		}
		if e := d.loop.Modify(fd, unix.EPOLLIN); e != 0 {
			d.fail(fd, e, client.Send)
		}
	case waiting:
		d.receive(fd, c)
	case ending:
		d.awaitFIN(fd)
	case half:
		if _, e := sock.Recv(fd, d.buf); e == unix.EAGAIN {
			return
		}
		d.halves--
		c.stage = unused
		sock.Close(fd)
	case idle:
		// The server closed, or broke, a connection that had nothing to do.
		if _, e := sock.Recv(fd, d.buf); e == unix.EAGAIN {
			return
		}
		d.pool = slices.DeleteFunc(d.pool, func(f int) bool { return f == fd })
		d.end(fd, &d.stats.ClosedLast)
	}
}

func (d *driver) receive(fd int, c *conn) {
	recv := sock.Recv
	if d.Closing == client.Unread {
		recv = sock.Peek
	}
	n, e := recv(fd, d.buf)
	switch {
	case e == unix.EAGAIN:
		return
	case e != 0:
		d.fail(fd, e, client.Receive)
		return
	case n == 0:
		d.fail(fd, errEOF, client.Receive)
		return
	}
	if c.begins {
		c.begins = false
		d.first.Add(d.Clock() - c.due)
	}
	if d.Closing == client.Unread { // the answer has begun to arrive, and stays where it is
		d.stats.OK++
		d.active--
		d.end(fd, &d.stats.ClosedReset)
		return
	}
	d.stats.BytesReceived += int64(n)
	if c.left > 0 {
		if c.left -= n; c.left <= 0 {
			d.answered(fd, c)
		}
		return
	}
	b := d.buf[:n]
	if len(c.part) > 0 {
		c.part = append(c.part, b...)
		b = c.part
	}
	m, whole, err := sock.ParseMessage(b)
	if err != nil || m.Size > 0 && m.Status == 0 {
		d.fail(fd, unix.EPROTO, client.Receive)
		return
	}
	c.last, c.status = m.Close, m.Status
	switch {
	case whole:
		d.answered(fd, c)
	case m.Size > 0: // the head is here
		c.left = m.Size - len(b)
	case len(c.part) == 0:
		c.part = append(c.part, b...)
	}
}

// answered goes on once an answer is whole.
func (d *driver) answered(fd int, c *conn) {
	c.part, c.left = c.part[:0], 0
	if c.status == 200 {
		d.stats.OK++
		d.whole.Add(d.Clock() - c.due)
	} else {
		d.stats.Failed++
		d.count(errStatus+unix.Errno(c.status), client.Receive, c.reused)
	}
	if d.Keepalive && !c.last && (d.PerConnection == 0 || c.sent < d.PerConnection) {
		c.stage = idle
		d.pool = append(d.pool, fd)
		d.active--
		return
	}
	if c.last && d.Keepalive { // the server has said its last word and closes
		c.stage = ending
		d.awaitFIN(fd)
		return
	}
	switch d.Closing {
	case client.First:
		d.active--
		d.endFirst(fd)
	case client.Reset, client.Both:
		if e := d.endAbruptly(fd); e != 0 {
			d.count(e, client.Closed, c.reused)
		}
		d.active--
	case client.Last:
		c.stage = ending
		d.awaitFIN(fd)
	}
}

// endFirst closes fd before the server's FIN was seen, whole or by half.
func (d *driver) endFirst(fd int) {
	if !d.HalfClose {
		d.end(fd, &d.stats.ClosedFirst)
		return
	}
	if e := sock.ShutdownWrite(fd); e != 0 {
		d.count(e, client.Closed, d.conns[fd].reused)
		d.end(fd, &d.stats.ClosedFailed)
		return
	}
	d.stats.ClosedFirst++
	d.conns[fd].stage = half
	d.halves++
}

// awaitFIN closes fd once the server's FIN is here.
func (d *driver) awaitFIN(fd int) {
	n, e := sock.Recv(fd, d.buf)
	switch {
	case e == unix.EAGAIN:
		return
	case e != 0:
		d.count(e, client.Closed, d.conns[fd].reused)
	case n > 0:
		d.count(unix.EPROTO, client.Closed, d.conns[fd].reused)
	}
	d.end(fd, &d.stats.ClosedLast)
	d.active--
}

// endAbruptly closes by RST, or together with the server.
func (d *driver) endAbruptly(fd int) unix.Errno {
	d.conns[fd].stage = unused
	if d.Closing == client.Reset {
		d.stats.ClosedReset++
		return sock.Reset(fd)
	}
	d.stats.ClosedFirst++
	return sock.CloseTogether(fd)
}

// end closes fd and counts it.
func (d *driver) end(fd int, how *int64) {
	d.conns[fd].stage = unused
	*how++
	sock.Close(fd)
}

// closePool ends the connections that the load left open.
func (d *driver) closePool() {
	if len(d.pool) > 0 && d.Idle != nil {
		d.Idle()
	}
	if d.Closing == client.Last {
		return // event() closes each as its FIN arrives
	}
	for _, fd := range d.pool {
		if d.Closing == client.First {
			d.endFirst(fd)
		} else if e := d.endAbruptly(fd); e != 0 {
			d.count(e, client.Closed, true)
		}
	}
	d.pool = d.pool[:0]
}

// fail ends a request, and its connection with it.
func (d *driver) fail(fd int, e unix.Errno, p client.Phase) {
	d.count(e, p, d.conns[fd].reused)
	if p == client.Connect {
		d.conns[fd].stage = unused
		sock.Close(fd)
	} else {
		d.end(fd, &d.stats.ClosedFailed)
	}
	d.stats.Failed++
	d.active--
}

// refused ends a request that has no connection.
func (d *driver) refused(e unix.Errno) {
	d.count(e, client.Connect, false)
	d.stats.Failed++
	d.active--
}

func (d *driver) count(e unix.Errno, p client.Phase, reused bool) { d.errs[failure{e, p, reused}]++ }

// expire fails the requests whose time is over.
func (d *driver) expire(now int64) {
	for fd := range d.conns {
		c := &d.conns[fd]
		if c.stage == unused || c.stage == idle || c.stage == half || now < c.deadline {
			continue
		}
		switch c.stage {
		case connecting:
			d.fail(fd, unix.ETIMEDOUT, client.Connect)
		case ending:
			d.count(unix.ETIMEDOUT, client.Closed, c.reused)
			d.end(fd, &d.stats.ClosedFailed)
			d.active--
		default:
			d.fail(fd, unix.ETIMEDOUT, client.Receive)
		}
	}
}

func (d *driver) snapshot() client.Stats {
	s := d.stats
	s.At, s.CPU = d.Clock(), sock.CPU()-d.cpu
	if d.loaded {
		s.Connect, s.FirstByte, s.Whole = d.took.Sum(), d.first.Sum(), d.whole.Sum()
	}
	s.Errors = make([]client.Error, 0, len(d.errs))
	for f, n := range d.errs {
		name := ""
		switch {
		case f.errno == errEOF:
			name = "EOF"
		case f.errno > errStatus:
			name = fmt.Sprintf("HTTP_%03d", int(f.errno-errStatus))
		default:
			name = sock.ErrnoName(f.errno)
		}
		s.Errors = append(s.Errors, client.Error{Errno: name, Phase: f.phase, Reused: f.reused, Count: n})
	}
	slices.SortFunc(s.Errors, client.CompareErrors)
	return s
}
