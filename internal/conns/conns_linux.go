package conns

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// An End says how a connection ended.
type End uint8

// The ends.
const (
	First End = iota // closed by this side before the other's FIN was here
	Last             // after that
	Reset            // by RST: from the other side, or because this side closed with bytes unread
)

// A Tally counts connections. Its fields may be read at any time.
type Tally struct {
	Opened, Live          atomic.Int64
	ClosedFirst           atomic.Int64
	ClosedLast            atomic.Int64
	ClosedReset           atomic.Int64
	Received, Sent        atomic.Int64 // bytes, those of TLS included
	Requests, ReusedCount atomic.Int64 // that were Answered; those on a connection that had carried one before
}

// A Conn is a connection that is counted. It may be used by several goroutines,
// as net.Conn asks for.
type Conn struct {
	net.Conn
	tally    *Tally
	answered atomic.Int64
	sent     atomic.Int64
	ended    atomic.Bool         // the other side has closed
	half     atomic.Pointer[End] // as it was closed by half
	once     sync.Once
	// OnClose is called once, before the connection is closed. It may be nil, and is set before the
	// connection is used.
	OnClose func(peerEnded bool)
}

// Wrap counts a connection from now on.
func (t *Tally) Wrap(c net.Conn) *Conn {
	t.Opened.Add(1)
	t.Live.Add(1)
	return &Conn{Conn: c, tally: t}
}

// Answered counts a request on the connection, and returns how many that makes.
func (c *Conn) Answered() int64 {
	n := c.answered.Add(1)
	c.tally.Requests.Add(1)
	if n > 1 {
		c.tally.ReusedCount.Add(1)
	}
	return n
}

// Count returns how many requests were Answered.
func (c *Conn) Count() int64 { return c.answered.Load() }

// Sent returns how many bytes the kernel took.
func (c *Conn) Sent() int64 { return c.sent.Load() }

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.tally.Received.Add(int64(n))
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		c.ended.Store(true)
	}
	return n, err
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	c.tally.Sent.Add(int64(n))
	return n, err
}

// CloseWrite closes by half, as net/http's server does before it closes on a client that may
// still be sending.
func (c *Conn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		end, _ := c.ask()
		c.half.CompareAndSwap(nil, &end)
		return h.CloseWrite()
	}
	return c.Close()
}

// Close implements net.Conn, and counts the end.
func (c *Conn) Close() error {
	c.once.Do(func() {
		if c.OnClose != nil {
			c.OnClose(c.ended.Load())
		}
		switch c.end() {
		case First:
			c.tally.ClosedFirst.Add(1)
		case Last:
			c.tally.ClosedLast.Add(1)
		case Reset:
			c.tally.ClosedReset.Add(1)
		}
		c.tally.Live.Add(-1) // last: who waits for none finds all counted
	})
	return c.Conn.Close()
}

// The states of TCP_INFO (include/net/tcp_states.h).
const (
	tcpClose     = 7
	tcpCloseWait = 8
)

// end says how the connection is about to end. What arrives between the question and the
// close is not in the answer.
func (c *Conn) end() End {
	end, unread := c.ask()
	switch half := c.half.Load(); {
	case unread: // then the kernel sends RST (RFC 2525, section 2.17)
		return Reset
	case half != nil:
		return *half
	}
	return end
}

// ask asks the kernel.
func (c *Conn) ask() (end End, unread bool) {
	if c.ended.Load() {
		end = Last
	}
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return end, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return end, false
	}
	_ = raw.Control(func(fd uintptr) { // closed already: what was seen counts
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return // a UNIX socket
		}
		n, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		unread = err == nil && n > 0
		switch info.State {
		case tcpClose:
			end = Reset
		case tcpCloseWait:
			end = Last
		}
	})
	return end, unread
}
