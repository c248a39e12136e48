// Package raw is the server engine that makes its own system calls: HTTP/1.1
// over non-blocking sockets and epoll on one locked thread, with an exact
// order of closing.
package raw

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/internal/sock"
	"github.com/twlab/twlab/server"
)

const reportEvery = 100e6 // ns

type conn struct {
	open     bool
	kept     bool   // came in at a door
	watched  uint32 // what epoll waits for; 0: it does not yet
	ignored  bool   // by epoll, for good
	ending   bool   // closes when the answer is out
	answered int64
	unsent   []byte // of an answer
	part     []byte // of a request that came in pieces
}

// waiting is a connection in CLOSE_WAIT, and when it is to be closed.
type waiting struct {
	fd  int
	due int64
}

type failure struct {
	errno unix.Errno
	phase string
}

type driver struct {
	server.Control
	server.Options
	loop      *sock.Loop
	listeners map[int]server.Behaviour // "" for those that serve
	later     []int                    // connections that get a FIN when the load is over
	late      []int                    // connections that get a RST when the load is over
	waiting   []waiting                // in CLOSE_WAIT, the first to be closed first
	restart   *restart
	ready     int64  // when all listeners were there
	accepting bool   // AcceptAfter is over
	keepText  []byte // the answers
	closeText []byte
	conns     []conn // by file descriptor
	stats     server.Stats
	reused    int64
	errs      map[failure]int64
	report    int64
	released  bool
	cpu       int64
	buf       []byte
}

// Run serves until ctx ends and returns what was counted. It needs a file
// descriptor a connection and about ten more.
func Run(ctx context.Context, o server.Options, c server.Control) (server.Stats, error) {
	if err := o.Validate(); err != nil {
		return server.Stats{}, err
	}
	ep, err := sock.NewEpoll()
	if err != nil {
		return server.Stats{}, err
	}
	defer ep.Close()
	d := &driver{
		Control: c, Options: o, listeners: map[int]server.Behaviour{}, errs: map[failure]int64{}, cpu: sock.CPU(), buf: make([]byte, 64<<10),
	}
	defer func() {
		for fd := range d.listeners {
			sock.Close(fd)
		}
		for fd := range d.conns {
			if d.conns[fd].open {
				sock.Close(fd)
			}
		}
	}()
	d.keepText, d.closeText = sock.Responses(o.Body)
	for _, a := range o.Listen {
		if err := d.listen(ep, a, "", !o.Exclusive); err != nil {
			return server.Stats{}, err
		}
	}
	for _, door := range o.Doors {
		if err := d.listen(ep, door.At, door.Behaviour, true); err != nil {
			return server.Stats{}, err
		}
	}
	d.loop = &sock.Loop{Epoll: ep, Next: d.next, Event: d.event}
	c.Release.OnRaise(ep.Wake)
	d.ready = c.Clock()
	c.Ready()
	if err := d.loop.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return d.snapshot(), err
	}
	return d.snapshot(), nil
}

// listen opens a listener with a behaviour.
func (d *driver) listen(ep *sock.Epoll, at netip.AddrPort, b server.Behaviour, reuse bool) error {
	fd, err := sock.Listen(at, d.Backlog, reuse)
	if err != nil {
		return err
	}
	d.listeners[fd] = b
	var e unix.Errno
	switch b {
	case "":
		if d.Closing == server.Both {
			e = sock.HoldFIN(fd)
		}
	case server.Deaf, server.DeafHang, server.DeafLater:
		e = sock.SmallBuffers(fd)
	case server.Drop:
		e = sock.DropAll(fd)
	case server.OnlySYN:
		e = sock.OnlySYN(fd)
	}
	if e == 0 && (b != "" || d.AcceptAfter == 0 || d.restart != nil) {
		e = ep.Add(fd, unix.EPOLLIN)
	}
	if e != 0 {
		return fmt.Errorf("listen on %s: %w", at, e)
	}
	return nil
}

// accept begins to look at the listeners that serve.
func (d *driver) accept() {
	d.accepting = true
	for fd, door := range d.listeners {
		if door != "" {
			continue
		}
		if e := d.loop.Add(fd, unix.EPOLLIN); e != 0 {
			d.count(e, "accept")
		}
	}
}

// keep takes a connection that came in at a door, and never looks at it again.
func (d *driver) keep(fd int, b server.Behaviour) {
	d.conns[fd].kept = true
	switch b {
	case server.Hang, server.DeafHang:
		if e := sock.ShutdownWrite(fd); e != 0 {
			d.count(e, "close")
		}
	case server.DeafLater:
		d.later = append(d.later, fd)
	}
}

func (d *driver) next() (at int64, done bool) {
	now := d.Clock()
	if now >= d.report {
		d.Report(d.snapshot())
		d.report = now + reportEvery
	}
	if !d.released && d.Release.Raised() {
		d.released = true
		for _, fd := range d.later {
			if e := sock.ShutdownWrite(fd); e != 0 {
				d.count(e, "close")
			}
		}
		for fd := range d.conns {
			if d.conns[fd].open && !d.conns[fd].kept && !d.conns[fd].ignored && d.Closing != server.Last && d.Closing != server.Late {
				d.closeFirst(fd)
			}
		}
		for _, fd := range d.late {
			d.end(fd, &d.stats.ClosedLast)
		}
		if d.Restart != "" {
			d.restart = &restart{first: now, next: now}
			for fd, door := range d.listeners {
				if door == "" {
					delete(d.listeners, fd)
					sock.Close(fd)
				}
			}
		}
	}
	wake := d.report
	if d.AcceptAfter > 0 && !d.accepting {
		if wake = min(wake, int64(d.AcceptAfter)+d.ready); wake <= now {
			d.accept()
		}
	}
	for len(d.waiting) > 0 {
		if w := d.waiting[0]; w.due > now {
			wake = min(wake, w.due)
			break
		}
		d.end(d.waiting[0].fd, &d.stats.ClosedLast)
		d.waiting = d.waiting[1:]
	}
	if d.restart != nil && !d.restart.Done {
		wake = min(wake, d.listenAgain(now))
	}
	return d.Epoch + wake, false
}

// restartEvery is the pause between two tries to listen again, in ns.
const restartEvery = 100e6

type restart struct {
	server.Restart
	first, next int64 // tries, ns since the trial's start
}

// listenAgain tries to listen as a restarted server does, and says when to
// come back.
func (d *driver) listenAgain(now int64) int64 {
	r := d.restart
	if now < r.next {
		return r.next
	}
	r.Tries++
	r.Took, r.next = now-r.first, now+restartEvery
	for _, a := range d.Listen {
		if err := d.listen(d.loop.Epoll, a, "", d.Restart == server.Reusing); err != nil {
			e := unix.EIO
			errors.As(err, &e)
			d.count(e, "listen")
			return r.next
		}
	}
	r.Done = true
	return r.next
}

func (d *driver) event(fd int, events uint32) {
	door, listens := d.listeners[fd]
	switch {
	case listens:
	case len(d.conns[fd].unsent) > 0:
		d.send(fd)
		return
	case d.Closing == server.Late && events&unix.EPOLLRDHUP != 0:
		d.sendLate(fd)
		return
	default:
		d.receive(fd)
		return
	}
	for range 64 {
		n, e := sock.Accept(fd)
		if e == unix.EAGAIN || e == unix.ECONNABORTED {
			return
		}
		if e != 0 {
			d.count(e, "accept")
			return
		}
		d.stats.Accepted++
		d.stats.Live++
		for n >= len(d.conns) {
			d.conns = append(d.conns, make([]conn, len(d.conns)+64)...)
		}
		d.conns[n] = conn{open: true, part: d.conns[n].part[:0]}
		if door != "" {
			d.keep(n, door)
			continue
		}
		// The request is usually here already; a connection that ends now
		// never needs to be watched.
		if d.receive(n); d.conns[n].open && !d.conns[n].ignored {
			d.conns[n].watched = d.interest(n)
			if e := d.loop.Add(n, d.conns[n].watched); e != 0 {
				d.count(e, "accept")
				d.end(n, nil)
			}
		}
	}
}

func (d *driver) receive(fd int) {
	read := sock.Recv
	if d.Closing == server.Late { // what is left unread makes close() send RST, in LAST_ACK too
		read = sock.Peek
	}
	n, e := read(fd, d.buf)
	switch {
	case e == unix.EAGAIN:
		return
	case e == unix.ECONNRESET:
		d.end(fd, &d.stats.ClosedReset)
		return
	case e != 0:
		d.count(e, "receive")
		d.end(fd, nil)
		return
	case n == 0 && d.forgets():
		d.stats.Forgotten++
		d.ignore(fd)
		return
	case n == 0 && d.CloseAfter > 0:
		d.waiting = append(d.waiting, waiting{fd, d.Clock() + int64(d.CloseAfter)})
		d.ignore(fd)
		return
	case n == 0:
		d.end(fd, &d.stats.ClosedLast)
		return
	}
	c := &d.conns[fd]
	b := d.buf[:n]
	if len(c.part) > 0 {
		c.part = append(c.part, b...)
		b = c.part
	}
	m, whole, err := sock.ParseMessage(b)
	if err != nil {
		d.count(unix.EPROTO, "receive")
		d.end(fd, nil)
		return
	}
	if !whole {
		if len(c.part) == 0 {
			c.part = append(c.part, b...)
		}
		return
	}
	c.part = c.part[:0] // the lab's clients do not pipeline
	d.stats.Requests++
	if c.answered++; c.answered > 1 {
		d.reused++
	}
	enough := d.PerConnection > 0 && c.answered >= d.PerConnection
	c.unsent, c.ending = d.keepText, enough || m.Close && d.Closing != server.Last && d.Closing != server.Late
	if m.Close || enough {
		c.unsent = d.closeText
	}
	d.send(fd)
}

// interest is what a connection is watched for.
func (d *driver) interest(fd int) uint32 {
	switch c := &d.conns[fd]; {
	case len(c.unsent) > 0:
		return unix.EPOLLOUT
	case d.Closing == server.Late && c.answered > 0: // the request stays unread
		return unix.EPOLLRDHUP
	}
	return unix.EPOLLIN
}

// send sends what is left of an answer.
func (d *driver) send(fd int) {
	c := &d.conns[fd]
	for len(c.unsent) > 0 {
		n, e := sock.Send(fd, c.unsent)
		if e == unix.EAGAIN {
			break
		}
		if e != 0 {
			c.unsent = nil
			d.count(e, "send")
			d.end(fd, nil)
			return
		}
		d.stats.BytesSent += int64(n)
		c.unsent = c.unsent[n:]
	}
	if len(c.unsent) == 0 && c.ending {
		d.closeFirst(fd)
		return
	}
	if now := d.interest(fd); c.watched != 0 && now != c.watched {
		c.watched = now
		if e := d.loop.Modify(fd, now); e != 0 {
			d.count(e, "send")
		}
	}
}

// sendLate answers the client's FIN with one whose ACK is dropped. The request
// is still unread, so that closing the socket sends RST, from LAST_ACK too
// (net/ipv4/tcp.c, __tcp_close).
func (d *driver) sendLate(fd int) {
	e := sock.DropAll(fd)
	if e == 0 {
		e = sock.ShutdownWrite(fd)
	}
	if e != 0 {
		d.count(e, "close")
	}
	d.ignore(fd)
	if d.released {
		d.end(fd, &d.stats.ClosedLast)
		return
	}
	d.late = append(d.late, fd)
}

// ignore stops watching a connection that has nothing more to tell.
func (d *driver) ignore(fd int) {
	if e := d.loop.Remove(fd); e != 0 && e != unix.ENOENT {
		d.count(e, "close")
	}
	d.conns[fd].ignored = true
}

// forgets says whether the next connection that the client has closed is one
// of those that this server leaves as they are: evenly spread, and exact.
func (d *driver) forgets() bool {
	share := int64(d.Forgets)
	i := d.stats.ClosedLast + d.stats.Forgotten
	return (i+1)*share/100 > i*share/100
}

// closeFirst closes fd before the peer's FIN was seen.
func (d *driver) closeFirst(fd int) {
	how := sock.CloseTogether
	switch d.Closing {
	case server.Both:
	case server.Reset:
		how = sock.Reset
	default:
		d.end(fd, &d.stats.ClosedFirst)
		return
	}
	d.conns[fd].open = false
	d.stats.Live--
	d.stats.ClosedFirst++
	if e := how(fd); e != 0 {
		d.count(e, "close")
	}
}

// end closes fd and counts it where it belongs.
func (d *driver) end(fd int, how *int64) {
	d.conns[fd].open = false
	d.stats.Live--
	if how != nil {
		*how++
	}
	sock.Close(fd)
}

func (d *driver) count(e unix.Errno, phase string) { d.errs[failure{e, phase}]++ }

func (d *driver) snapshot() server.Stats {
	s := d.stats
	s.At, s.CPU = d.Clock(), sock.CPU()-d.cpu
	s.Reused = new(d.reused)
	if d.restart != nil {
		r := d.restart.Restart
		s.Restart = &r
	}
	s.Errors = make([]server.Error, 0, len(d.errs))
	for f, n := range d.errs {
		s.Errors = append(s.Errors, server.Error{Errno: sock.ErrnoName(f.errno), Phase: f.phase, Count: n})
	}
	slices.SortFunc(s.Errors, func(a, b server.Error) int {
		return cmp.Or(cmp.Compare(a.Errno, b.Errno), cmp.Compare(a.Phase, b.Phase))
	})
	return s
}
