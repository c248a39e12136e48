package raw

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/internal/sock"
)

// population are sockets brought to states, kept open.
type population struct{ fds []int }

func (p *population) close() {
	for _, fd := range p.fds {
		sock.Close(fd)
	}
}

// rests are the pauses between fillings of a send queue: what the peer's
// window still takes, it takes in the first of them.
var rests = []time.Duration{20 * time.Millisecond, 100 * time.Millisecond}

// hold brings sockets to states, TIME_WAIT last: that one cannot be prolonged,
// only made anew.
// It uses ordinary system calls only; the server's doors do the other half.
func hold(ctx context.Context, wants []client.Held, c client.Control) (*population, error) {
	p := &population{}
	for _, last := range []bool{false, true} {
		for _, w := range wants {
			if (w.State == "TIME_WAIT") != last {
				continue
			}
			if err := p.bring(ctx, w); err != nil {
				return p, fmt.Errorf("hold %d sockets in %s: %w", w.N, w.State, err)
			}
		}
	}
	if len(wants) > 0 {
		c.Report(client.Stats{At: c.Clock()})
	}
	return p, nil
}

// silent begins connections that drop every answer: the SYN queues of the
// destinations fill up. It works inside of the lab only.
func (p *population) silent(o client.Options, c client.Control) error {
	if o.Silent == 0 {
		return nil
	}
	why := errors.New("nobody says where this is")
	if c.Made != nil {
		why = c.Made()
	}
	if why != nil {
		return fmt.Errorf("connections that never answer fill SYN queues, which is for namespaces that twlab made: %w", why)
	}
	for i := range o.Silent {
		at := sock.NewAddr(o.Destinations[i%len(o.Destinations)])
		fd, e := sock.Socket(at)
		if e == 0 {
			p.fds = append(p.fds, fd)
			e = sock.DropAll(fd)
		}
		if e == 0 {
			e = sock.Connect(fd, at)
		}
		if e != 0 && e != unix.EINPROGRESS {
			return fmt.Errorf("begin silent connection %d of %d: %w", i+1, o.Silent, e)
		}
	}
	return nil
}

func (p *population) bring(ctx context.Context, w client.Held) error {
	first := len(p.fds)
	for i := range w.N {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fd, err := p.one(w, i)
		if err != nil {
			return fmt.Errorf("after %d: %w", i, err)
		}
		if w.State == "TIME_WAIT" {
			// A request and its answer come first: a server that has just sent
			// data delays the ACK of the client's FIN and sends it with its own.
			// Without data two segments leave it on two CPUs, and where they
			// arrive the wrong way round TIME_WAIT answers the late ACK, the
			// server has no socket any more and answers with RST, and a RST
			// ends TIME_WAIT where tcp_rfc1337 is 0 (seen on Linux 6.18).
			_, e := sock.Send(fd, sock.RequestKeep)
			if e == 0 {
				err = await(fd, unix.POLLIN)
			}
			if e == 0 && err == nil {
				var answer [512]byte
				_, e = sock.Recv(fd, answer[:])
			}
			sock.Close(fd)
			if err := errors.Join(orNil(e), err); err != nil {
				return err
			}
			continue
		}
		p.fds = append(p.fds, fd)
	}
	mine := p.fds[first:]
	switch w.State {
	case "FIN_WAIT2":
		return each(mine, sock.ShutdownWrite)
	case "FIN_WAIT1", "CLOSING", "LAST_ACK":
		// The FIN must wait behind data that the server never reads.
		for _, rest := range append(rests, 0) {
			if err := each(mine, fill); err != nil {
				return err
			}
			time.Sleep(rest)
		}
		if w.State == "LAST_ACK" {
			for _, fd := range mine {
				if err := await(fd, unix.POLLIN); err != nil { // the server's FIN
					return err
				}
			}
		}
		return each(mine, sock.ShutdownWrite)
	}
	return nil
}

// refill makes the sockets in TIME_WAIT that have died.
func (d *driver) refill() {
	if d.Refill == nil {
		return
	}
	n := d.Refill()
	i := slices.IndexFunc(d.Held, func(h client.Held) bool { return h.State == "TIME_WAIT" })
	if n == 0 || i < 0 {
		return
	}
	again := d.Held[i]
	again.N = n
	if err := d.held.bring(context.Background(), again); err != nil {
		e := unix.EIO
		errors.As(err, &e)
		d.count(e, client.Connect, false)
	}
	d.Filled()
}

func each(fds []int, f func(int) unix.Errno) error {
	for _, fd := range fds {
		if e := f(fd); e != 0 {
			return e
		}
	}
	return nil
}

// nowhere is where sockets are bound that no one is to reach.
var nowhere = netip.MustParseAddrPort("127.0.0.1:0")

// one makes a socket as the state begins.
func (p *population) one(w client.Held, i int) (int, error) {
	switch w.State {
	case "LISTEN":
		return sock.Listen(nowhere, 16, true)
	case "CLOSE":
		at := sock.NewAddr(nowhere)
		fd, e := sock.Socket(at)
		if e == 0 {
			e = sock.Bind(fd, at, true)
		}
		return fd, orNil(e)
	}
	if len(w.At) == 0 {
		return -1, errors.New("no address behaves as that needs")
	}
	at := sock.NewAddr(w.At[i%len(w.At)])
	fd, e := sock.Socket(at)
	if e != 0 {
		return -1, e
	}
	if w.State == "FIN_WAIT1" || w.State == "CLOSING" || w.State == "LAST_ACK" {
		e = sock.SmallBuffers(fd)
	}
	if e == 0 {
		e = sock.Connect(fd, at)
	}
	if e != 0 && e != unix.EINPROGRESS {
		sock.Close(fd)
		return -1, e
	}
	if w.State == "SYN_SENT" {
		return fd, nil
	}
	if err := await(fd, unix.POLLOUT); err != nil {
		sock.Close(fd)
		return -1, err
	}
	if e := sock.ConnectError(fd); e != 0 {
		sock.Close(fd)
		return -1, e
	}
	return fd, nil
}

// fill sends until the socket takes no more.
func fill(fd int) unix.Errno {
	var junk [4096]byte
	for {
		switch _, e := sock.Send(fd, junk[:]); e {
		case 0:
		case unix.EAGAIN:
			return 0
		default:
			return e
		}
	}
}

// await waits until the socket is ready, five seconds at most.
func await(fd int, events int16) error {
	pfd := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		n, err := unix.Poll(pfd, 5000)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return unix.ETIMEDOUT
		default:
			return nil
		}
	}
}

func orNil(e unix.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}
