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
	kept     bool // came in at a door
	answered int64
	part     []byte // of a request that came in pieces
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
	conns     []conn                   // by file descriptor
	stats     server.Stats
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
	for _, a := range o.Listen {
		if err := d.listen(ep, a, ""); err != nil {
			return server.Stats{}, err
		}
	}
	for _, door := range o.Doors {
		if err := d.listen(ep, door.At, door.Behaviour); err != nil {
			return server.Stats{}, err
		}
	}
	d.loop = &sock.Loop{Epoll: ep, Next: d.next, Event: d.event}
	c.Release.OnRaise(ep.Wake)
	c.Ready()
	if err := d.loop.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return d.snapshot(), err
	}
	return d.snapshot(), nil
}

// listen opens a listener with a behaviour.
func (d *driver) listen(ep *sock.Epoll, at netip.AddrPort, b server.Behaviour) error {
	fd, err := sock.Listen(at, d.Backlog)
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
	if e == 0 {
		e = ep.Add(fd, unix.EPOLLIN)
	}
	if e != 0 {
		return fmt.Errorf("listen on %s: %w", at, e)
	}
	return nil
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
			if d.conns[fd].open && !d.conns[fd].kept && d.Closing != server.Last {
				d.closeFirst(fd)
			}
		}
	}
	return d.Epoch + d.report, false
}

func (d *driver) event(fd int, _ uint32) {
	door, listens := d.listeners[fd]
	if !listens {
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
		forgotten := d.stats.Forgotten
		if d.receive(n); d.conns[n].open && d.stats.Forgotten == forgotten {
			if e := d.loop.Add(n, unix.EPOLLIN); e != 0 {
				d.count(e, "accept")
				d.end(n, nil)
			}
		}
	}
}

func (d *driver) receive(fd int) {
	n, e := sock.Recv(fd, d.buf)
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
		if e := d.loop.Remove(fd); e != 0 && e != unix.ENOENT {
			d.count(e, "close")
		}
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
	c.answered++
	enough := d.PerConnection > 0 && c.answered >= d.PerConnection
	answer := sock.ResponseKeep
	if m.Close || enough {
		answer = sock.ResponseClose
	}
	if _, e := sock.Send(fd, answer); e != 0 {
		d.count(e, "send")
		d.end(fd, nil)
		return
	}
	if enough || m.Close && d.Closing != server.Last {
		d.closeFirst(fd)
	}
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
	if d.Closing != server.Both {
		d.end(fd, &d.stats.ClosedFirst)
		return
	}
	d.conns[fd].open = false
	d.stats.Live--
	d.stats.ClosedFirst++
	if e := sock.CloseTogether(fd); e != 0 {
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
	s.Errors = make([]server.Error, 0, len(d.errs))
	for f, n := range d.errs {
		s.Errors = append(s.Errors, server.Error{Errno: sock.ErrnoName(f.errno), Phase: f.phase, Count: n})
	}
	slices.SortFunc(s.Errors, func(a, b server.Error) int {
		return cmp.Or(cmp.Compare(a.Errno, b.Errno), cmp.Compare(a.Phase, b.Phase))
	})
	return s
}
