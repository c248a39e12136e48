// Package conns counts connections of Go's standard library from inside: how
// many there were, what they carried, and how each ended. Both sides of the lab and
// package twtest need that.
//
// It sees what a program could see. Who closed first is a race in most programs, and the
// kernel's own count of it (metric timewait_socks.births) is the exact one.
package conns

import (
	"net"
	"strings"
)

// Under finds the connection of type T below others: tls.Conn and whatever else tells its
// NetConn.
func Under[T net.Conn](c net.Conn) (found T, ok bool) {
	for c != nil {
		if found, ok = c.(T); ok {
			return found, true
		}
		wrapped, is := c.(interface{ NetConn() net.Conn })
		if !is {
			break
		}
		c = wrapped.NetConn()
	}
	return found, false
}

// A Refusal says why net/http does not keep a connection that is done with its request.
type Refusal uint8

// The refusals.
const (
	OtherRefusal Refusal = iota
	PoolFull             // as many idle connections to that host are kept as may be (MaxIdleConnsPerHost)
	PoolsFull            // as many idle connections to all hosts are kept as may be (MaxIdleConns)
	Disabled             // keep-alives are
)

// WhyRefused reads the error of httptrace's PutIdleConn, which net/http tells by its text alone
// (net/http/transport.go, errTooManyIdleHost and its neighbours).
func WhyRefused(err error) Refusal {
	switch text := err.Error(); {
	case strings.Contains(text, "too many idle connections for host"):
		return PoolFull
	case strings.Contains(text, "too many idle connections"):
		return PoolsFull
	case strings.Contains(text, "keep alives disabled"):
		return Disabled
	}
	return OtherRefusal
}
