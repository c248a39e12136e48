package sock

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below cannot block (the sockets are non-blocking), so they go
// through RawSyscall, which spares the scheduler's bookkeeping: 10 to 30 % of
// a connection's cost in Go. A RawSyscall that blocks would stall every stop
// of the garbage collector; epoll_wait therefore goes through Syscall.

// Addr is a socket address ready for the kernel.
type Addr struct {
	raw  unix.RawSockaddrAny
	size uintptr
	v6   bool
}

// NewAddr converts an address. Zones are not supported.
func NewAddr(a netip.AddrPort) *Addr {
	r := &Addr{}
	port := [2]byte{byte(a.Port() >> 8), byte(a.Port())}
	if a.Addr().Unmap().Is4() {
		p := (*unix.RawSockaddrInet4)(unsafe.Pointer(&r.raw))
		p.Family, p.Addr = unix.AF_INET, a.Addr().Unmap().As4()
		p.Port = *(*uint16)(unsafe.Pointer(&port))
		r.size = unix.SizeofSockaddrInet4
		return r
	}
	p := (*unix.RawSockaddrInet6)(unsafe.Pointer(&r.raw))
	p.Family, p.Addr = unix.AF_INET6, a.Addr().As16()
	p.Port = *(*uint16)(unsafe.Pointer(&port))
	r.size, r.v6 = unix.SizeofSockaddrInet6, true
	return r
}

// Socket returns a non-blocking TCP socket of the address's family.
func Socket(a *Addr) (int, unix.Errno) {
	family := uintptr(unix.AF_INET)
	if a.v6 {
		family = unix.AF_INET6
	}
	fd, _, e := unix.RawSyscall(unix.SYS_SOCKET, family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return int(fd), e
}

// Bind gives fd a local address. With early the kernel chooses the port now,
// for all destinations at once; otherwise connect() will
// (IP_BIND_ADDRESS_NO_PORT, Linux 4.2).
func Bind(fd int, a *Addr, early bool) unix.Errno {
	if !early {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return unix.EINVAL
		}
	}
	_, _, e := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&a.raw)), a.size)
	return e
}

// Connect starts connecting; EINPROGRESS is the usual answer.
func Connect(fd int, a *Addr) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&a.raw)), a.size)
	return e
}

// ConnectError returns why a pending connect ended: 0 for success.
func ConnectError(fd int) unix.Errno {
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return unix.EBADF
	}
	return unix.Errno(v)
}

// Accept takes one connection off a listener, non-blocking.
func Accept(fd int) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int(n), e
}

// Send writes without raising SIGPIPE.
func Send(fd int, b []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

// Recv reads what is there.
func Recv(fd int, b []byte) (int, unix.Errno) { return recv(fd, b, 0) }

// Peek reads what is there and leaves it there.
func Peek(fd int, b []byte) (int, unix.Errno) { return recv(fd, b, unix.MSG_PEEK) }

func recv(fd int, b []byte, flags uintptr) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT|flags, 0, 0)
	return int(n), e
}

// Close closes fd.
func Close(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// Reset closes fd with SO_LINGER 0: a RST instead of a FIN, and no TIME_WAIT.
func Reset(fd int) unix.Errno {
	linger := unix.Linger{Onoff: 1}
	_, _, e := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER,
		uintptr(unsafe.Pointer(&linger)), unsafe.Sizeof(linger), 0)
	Close(fd)
	return e
}

// ShutdownWrite sends the FIN and keeps the socket.
func ShutdownWrite(fd int) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	return e
}

// holdFIN is a classic BPF program over the TCP header: a segment with FIN is
// dropped, all else passes. A socket filter sees the segment from its TCP
// header on (net/ipv4/tcp_ipv4.c, tcp_filter).
var holdFIN = [...]unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},                   // A = flags
	{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 0x01, Jt: 0, Jf: 1}, // FIN?
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0x40000},
}

// dropAll and onlySYN are filters for listeners: nothing passes; only segments
// whose flags are SYN, perhaps with ECN's.
var (
	dropAll = [...]unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	onlySYN = [...]unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x3f}, // without ECE and CWR
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0x02, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x40000},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
)

// DropAll makes a socket drop every segment that arrives.
func DropAll(fd int) unix.Errno { return attach(fd, dropAll[:]) }

// OnlySYN makes a socket drop every segment that arrives but SYNs.
func OnlySYN(fd int) unix.Errno { return attach(fd, onlySYN[:]) }

// SmallBuffers makes a socket's buffers as small as the kernel lets them be,
// so that little data fills them. It is for sockets not yet connected, and for
// listeners, whose connections inherit it.
func SmallBuffers(fd int) unix.Errno {
	for _, opt := range []int{unix.SO_SNDBUF, unix.SO_RCVBUF} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, 1); err != nil {
			return unix.EINVAL
		}
	}
	return 0
}

// HoldFIN makes the socket deaf to FIN segments until DropNone: the peer's
// FIN is retransmitted meanwhile. On a listener, accepted sockets inherit it.
// With it both ends of a connection can be brought to FIN_WAIT1 before either
// hears of the other's FIN: a simultaneous close, every time.
func HoldFIN(fd int) unix.Errno { return attach(fd, holdFIN[:]) }

func attach(fd int, filter []unix.SockFilter) unix.Errno {
	p := unix.SockFprog{Len: uint16(len(filter)), Filter: unsafe.SliceData(filter)}
	_, _, e := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		uintptr(unsafe.Pointer(&p)), unsafe.Sizeof(p), 0)
	return e
}

// DropNone ends what DropAll, OnlySYN or HoldFIN began.
func DropNone(fd int) unix.Errno {
	var zero int32
	_, _, e := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER,
		uintptr(unsafe.Pointer(&zero)), unsafe.Sizeof(zero), 0)
	return e
}

// CloseTogether sends the FIN, ends HoldFIN and closes fd, in that order.
func CloseTogether(fd int) unix.Errno {
	e := ShutdownWrite(fd)
	e2 := DropNone(fd)
	Close(fd)
	if e != 0 {
		return e
	}
	return e2
}

// ReuseAddress sets SO_REUSEADDR.
func ReuseAddress(fd int) unix.Errno {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return unix.EINVAL
	}
	return 0
}

// Listen returns a non-blocking listener, with SO_REUSEADDR where reuse says so.
func Listen(a netip.AddrPort, backlog int, reuse bool) (int, error) {
	addr := NewAddr(a)
	fd, e := Socket(addr)
	if e != 0 {
		return -1, fmt.Errorf("socket: %w", e)
	}
	if reuse {
		if e := ReuseAddress(fd); e != 0 {
			Close(fd)
			return -1, fmt.Errorf("set SO_REUSEADDR: %w", e)
		}
	}
	if e := Bind(fd, addr, true); e != 0 {
		Close(fd)
		return -1, fmt.Errorf("bind %s: %w", a, e)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		Close(fd)
		return -1, fmt.Errorf("listen on %s: %w", a, err)
	}
	return fd, nil
}

// Epoll is an epoll set with a timer and a wake-up from other goroutines. All
// but Wake belong to one locked thread.
type Epoll struct {
	fd    int
	timer int
	wake  int
	armed int64 // when the timer fires, ns of CLOCK_MONOTONIC; 0: off
}

// Events of Wait that are not a socket's.
const (
	TimerFD = -1
	WakeFD  = -2
)

// NewEpoll returns an empty set.
func NewEpoll() (*Epoll, error) {
	p := &Epoll{}
	var err error
	if p.fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	if p.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		Close(p.fd)
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	if p.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		Close(p.fd)
		Close(p.timer)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	for _, fd := range []int{p.timer, p.wake} {
		if e := p.Add(fd, unix.EPOLLIN); e != 0 {
			p.Close()
			return nil, fmt.Errorf("epoll_ctl: %w", e)
		}
	}
	return p, nil
}

// Close closes the set, not the sockets in it.
func (p *Epoll) Close() {
	Close(p.wake)
	Close(p.timer)
	Close(p.fd)
}

func (p *Epoll) ctl(op uintptr, fd int, events uint32) unix.Errno {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	_, _, e := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(p.fd), op, uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
	return e
}

// Add watches fd.
func (p *Epoll) Add(fd int, events uint32) unix.Errno { return p.ctl(unix.EPOLL_CTL_ADD, fd, events) }

// Modify changes what fd is watched for.
func (p *Epoll) Modify(fd int, events uint32) unix.Errno {
	return p.ctl(unix.EPOLL_CTL_MOD, fd, events)
}

// Remove stops watching fd.
func (p *Epoll) Remove(fd int) unix.Errno { return p.ctl(unix.EPOLL_CTL_DEL, fd, 0) }

// At makes Wait return at the given CLOCK_MONOTONIC time in ns; 0 switches
// the timer off.
func (p *Epoll) At(when int64) error {
	if when == p.armed {
		return nil
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(when)}
	if err := unix.TimerfdSettime(p.timer, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		return fmt.Errorf("timerfd_settime: %w", err)
	}
	p.armed = when
	return nil
}

// Wake makes Wait return. Any goroutine may call it.
func (p *Epoll) Wake() {
	one := [8]byte{1}
	_, _ = unix.Write(p.wake, one[:])
}

// Wait fills events and returns how many there are. The timer's and the
// wake-up's are cleared and marked TimerFD and WakeFD.
func (p *Epoll) Wait(events []unix.EpollEvent, block bool) (int, error) {
	timeout := 0
	if block {
		timeout = -1
	}
	var n uintptr
	var e unix.Errno
	for {
		if block {
			n, _, e = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
				uintptr(len(events)), uintptr(timeout), 0, 0)
		} else {
			n, _, e = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
				uintptr(len(events)), 0, 0, 0)
		}
		if e != unix.EINTR {
			break
		}
	}
	if e != 0 {
		return 0, fmt.Errorf("epoll_wait: %w", e)
	}
	for i := range events[:n] {
		switch int(events[i].Fd) {
		case p.timer:
			p.armed = 0
			p.drain(p.timer)
			events[i].Fd = TimerFD
		case p.wake:
			p.drain(p.wake)
			events[i].Fd = WakeFD
		}
	}
	return int(n), nil
}

func (p *Epoll) drain(fd int) {
	var b [8]byte
	_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b)), 8)
}

// ErrnoName returns the name of e as errno(3) spells it: "ECONNRESET".
func ErrnoName(e unix.Errno) string {
	if n := unix.ErrnoName(e); n != "" {
		return n
	}
	return fmt.Sprintf("E%d", int(e))
}

// CPU returns the user and system CPU time of this process, in ns.
func CPU() int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// A Loop is the heart of a driver: one locked thread that waits in epoll.
type Loop struct {
	*Epoll
	// Next is called before every wait. It does what is due, and returns when
	// it must be called again at the latest (ns of CLOCK_MONOTONIC; a time
	// that has passed: at once), or done.
	Next func() (at int64, done bool)
	// Event is called for every socket that is ready.
	Event func(fd int, events uint32)
}

// Run loops until Next says done or ctx ends.
func (l *Loop) Run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	stop := context.AfterFunc(ctx, l.Wake)
	defer stop()
	events := make([]unix.EpollEvent, 512)
	for ctx.Err() == nil {
		at, done := l.Next()
		if done {
			return nil
		}
		block := at > 0
		if block {
			if err := l.At(at); err != nil {
				return err
			}
		}
		n, err := l.Wait(events, block)
		if err != nil {
			return err
		}
		for _, ev := range events[:n] {
			if ev.Fd >= 0 {
				l.Event(int(ev.Fd), ev.Events)
			}
		}
	}
	return ctx.Err()
}
