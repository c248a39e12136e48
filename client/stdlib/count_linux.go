package stdlib

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/internal/sock"
)

// ended counts a request that has ended.
func (d *load) ended(w *worker, s *shot, err error, took int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.release(s)
	var st status
	switch {
	case err == nil:
		d.stats.OK++
		d.whole.Add(took)
	case errors.As(err, &st):
		d.fail(fmt.Sprintf("HTTP_%03d", int(st)), s)
	default:
		d.fail(errnoOf(err), s)
		if s.link != nil && !s.answered && s.link.Count() > 0 {
			d.stats.Stale++
		}
	}
	switch {
	case !s.answered:
	case s.reused:
		w.moved += seekBy
	default:
		w.moved -= seekBy
	}
}

func (d *load) fail(errno string, s *shot) {
	d.stats.Failed++
	d.errs[failure{errno, s.phase, s.link != nil && s.link.Count() > 0 && !s.answered || s.reused}]++
}

// errnoOf names an error of the library.
func errnoOf(err error) string {
	var errno unix.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &errno):
		return sock.ErrnoName(errno)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return sock.ErrnoName(unix.ETIMEDOUT)
	// net/http tells these two by their text alone.
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, driver.ErrBadConn), strings.Contains(err.Error(), "server closed idle connection"):
		return "EOF"
	}
	return sock.ErrnoName(unix.EPROTO)
}

// dial opens a connection for an asker.
func (d *load) dial(ctx context.Context, of *owner, to netip.AddrPort) (*link, error) {
	network, addr := "tcp", to.String()
	if d.Stdlib.Unix != "" {
		network, addr = "unix", d.Stdlib.Unix
	}
	d.mu.Lock()
	d.stats.Attempted++
	d.mu.Unlock()
	d.dials.Add(1)
	defer d.dials.Add(-1)
	begin := d.Clock()
	c, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	l := &link{Conn: d.tally.Wrap(c), owner: of}
	l.OnClose = func(peerEnded bool) { d.closed(l, peerEnded) }
	d.mu.Lock()
	defer d.mu.Unlock()
	d.connect.Add(d.Clock() - begin)
	return l, nil
}

// closed notes why a connection ends.
func (d *load) closed(l *link, peerEnded bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	cause := l.cause
	switch {
	case cause != "":
	case l.users > 0:
		cause = client.Broken
	case l.Count() == 0:
		cause = client.NeverUsed
	case peerEnded:
		cause = client.ServerClosed
	case d.over:
		cause = client.LoadOver
	case l.owner.left:
		cause = client.GivenUp
	case d.Stdlib.SQL: // the pool does not say; its own counts do
		return
	default:
		cause = client.ClientIdle
	}
	d.causes[cause]++
}

// carries notes that a request has its connection. It had another one before where it was sent again.
func (d *load) carries(s *shot, l *link) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.link != nil && !s.answered && s.link.Count() > 0 {
		d.stats.Stale++
	}
	d.release(s)
	s.link, s.phase, s.busy = l, client.Send, true
	l.users++
	l.cause = ""
}

// release notes that a request no longer needs its connection. d.mu is held.
func (d *load) release(s *shot) {
	if s.busy {
		s.busy = false
		s.link.users--
	}
}

// answers notes that an answer begins.
func (d *load) answers(s *shot) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.answered || s.link == nil {
		return
	}
	s.answered = true
	s.reused = s.link.Answered() > 1
	d.first.Add(d.Clock() - s.due)
}

// ends notes why a request's connection is going to end.
func (d *load) ends(s *shot, why client.Cause) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.link != nil && s.link.cause == "" {
		s.link.cause = why
	}
}

// end waits for the connections that are being opened or closed.
func (d *load) end(ctx context.Context) {
	for begin := time.Now(); (d.dials.Load() > 0 || d.tally.Live.Load() > 0 && !d.Stdlib.Leaves()) && time.Since(begin) < endFor && ctx.Err() == nil; {
		time.Sleep(time.Millisecond)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats.End = d.Clock()
}

// snapshot returns what was counted; final adds what takes time to sum up.
func (d *load) snapshot(final bool) client.Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	s.At, s.CPU = d.Clock(), sock.CPU()-d.cpu
	s.Opened, s.BytesReceived = d.tally.Opened.Load(), d.tally.Received.Load()
	s.Reused = d.tally.ReusedCount.Load()
	s.Fresh = d.tally.Requests.Load() - s.Reused
	s.ClosedFirst, s.ClosedLast, s.ClosedReset = d.tally.ClosedFirst.Load(), d.tally.ClosedLast.Load(), d.tally.ClosedReset.Load()
	s.Ended = maps.Clone(d.causes)
	if final {
		s.Connect, s.TLS, s.FirstByte, s.Whole = d.connect.Sum(), d.tls.Sum(), d.first.Sum(), d.whole.Sum()
	}
	s.Errors = make([]client.Error, 0, len(d.errs))
	for f, n := range d.errs {
		s.Errors = append(s.Errors, client.Error{Errno: f.errno, Phase: f.phase, Reused: f.reused, Count: n})
	}
	slices.SortFunc(s.Errors, client.CompareErrors)
	return s
}
