// Package sockdiag lists the TCP sockets of the calling process's network
// namespace by NETLINK_SOCK_DIAG: what ss does, without formatting a line for
// each socket. No privileges are needed.
//
// It counts and does not filter: the kernel walks its whole hash table
// whatever is asked for. It includes request sockets (SYN_RECV) and, on Linux
// 6.8 and newer, bound sockets that are not connected (CLOSE).
package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/measure"
)

// ErrNotSupported reports a kernel without inet_diag for TCP.
var ErrNotSupported = errors.New("kernel has no sock_diag for TCP")

const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY, include/uapi/linux/sock_diag.h
	timerTimewait    = 3  // idiag_timer of a timewait minisock, net/ipv4/inet_diag.c
	sizeofDiagMsg    = 72 // struct inet_diag_msg
)

// inetDiagReq is struct inet_diag_req_v2 behind its netlink header.
type inetDiagReq struct {
	hdr      unix.NlMsghdr
	family   uint8
	protocol uint8
	ext      uint8
	_        uint8
	states   uint32
	id       [48]byte
}

// A Reader holds a netlink socket and a buffer. It may be shared; walks take
// turns.
type Reader struct {
	mu  sync.Mutex // held for a whole walk: answers of two would mix
	fd  int
	buf []byte
	seq uint32
}

// Open returns a reader for the network namespace of the calling thread. The
// caller closes it.
func Open() (*Reader, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSupported, err)
	}
	// A walk that never answers is an error, not a hang.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	return &Reader{fd: fd, buf: make([]byte, 256<<10)}, nil
}

// Close closes the netlink socket.
func (r *Reader) Close() error { return unix.Close(r.fd) }

// Sockets implements measure.SocketReader.
func (r *Reader) Sockets(visit func(measure.Socket)) (consistent bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	consistent = true
	for _, f := range []struct {
		af   uint8
		name measure.Family
	}{{unix.AF_INET, measure.INET}, {unix.AF_INET6, measure.INET6}} {
		ok, err := r.walk(f.af, f.name, visit)
		if err != nil {
			return false, err
		}
		consistent = consistent && ok
	}
	return consistent, nil
}

func (r *Reader) walk(af uint8, family measure.Family, visit func(measure.Socket)) (consistent bool, err error) {
	r.seq++
	req := inetDiagReq{family: af, protocol: unix.IPPROTO_TCP, states: ^uint32(0)}
	req.hdr = unix.NlMsghdr{
		Len: uint32(unsafe.Sizeof(req)), Type: sockDiagByFamily, Flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP, Seq: r.seq,
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(&req)), unsafe.Sizeof(req))
	if err := unix.Sendto(r.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, fmt.Errorf("ask sock_diag: %w", err)
	}
	consistent = true
	for {
		n, _, err := unix.Recvfrom(r.fd, r.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("read sock_diag: %w", err)
		}
		done, ok, err := parse(r.buf[:n], r.seq, family, visit)
		consistent = consistent && ok
		if err != nil || done {
			return consistent, err
		}
	}
}

// parse reads one datagram of netlink messages.
func parse(b []byte, seq uint32, family measure.Family, visit func(measure.Socket)) (done, consistent bool, err error) {
	consistent = true
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b[0:]))
		kind := binary.NativeEndian.Uint16(b[4:])
		flags := binary.NativeEndian.Uint16(b[6:])
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return false, consistent, fmt.Errorf("sock_diag: message of %d bytes in %d", size, len(b))
		}
		body := b[unix.SizeofNlMsghdr:size]
		mine := binary.NativeEndian.Uint32(b[8:]) == seq // else the rest of a walk that was given up
		if mine && flags&unix.NLM_F_DUMP_INTR != 0 {
			consistent = false
		}
		switch {
		case !mine:
		case kind == unix.NLMSG_DONE:
			return true, consistent, nil
		case kind == unix.NLMSG_ERROR:
			e := unix.Errno(0)
			if len(body) >= 4 {
				e = unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
			}
			if e == unix.ENOENT || e == unix.EPROTONOSUPPORT || e == unix.EINVAL {
				return true, consistent, fmt.Errorf("%w: %w", ErrNotSupported, e)
			}
			return true, consistent, fmt.Errorf("sock_diag: %w", e)
		case kind == sockDiagByFamily:
			if len(body) < sizeofDiagMsg {
				return false, consistent, fmt.Errorf("sock_diag: socket of %d bytes", len(body))
			}
			visit(measure.Socket{
				State:       measure.State(body[1]),
				Family:      family,
				LocalPort:   binary.BigEndian.Uint16(body[4:]),
				RemotePort:  binary.BigEndian.Uint16(body[6:]),
				TimewaitRow: body[2] == timerTimewait,
			})
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return false, consistent, nil
}
