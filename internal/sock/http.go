// Package sock holds what both raw drivers share: non-blocking sockets, epoll
// on a locked thread, and the few bytes of HTTP/1.1 that the lab speaks.
//
// It knows nothing of pools, rates or the order of closing.
package sock

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// ErrMalformed reports bytes that are no HTTP/1.1 message of the kind the lab
// sends: no chunked bodies, no continuation lines.
var ErrMalformed = errors.New("malformed HTTP message")

// maxHead is the longest head that is read before a message counts as malformed.
const maxHead = 16 << 10

// The requests of the lab.
var (
	RequestKeep  = []byte("GET / HTTP/1.1\r\nHost: twlab\r\n\r\n")
	RequestClose = []byte("GET / HTTP/1.1\r\nHost: twlab\r\nConnection: close\r\n\r\n")
)

// Responses returns an answer with a body of so many bytes, and the same with
// "Connection: close".
func Responses(body int) (keep, closing []byte) {
	text := bytes.Repeat([]byte("hello\n"), body/6+1)[:body]
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n", body)
	return slices.Concat([]byte(head), crlf2[:2], text), slices.Concat([]byte(head+"Connection: close"), crlf2, text)
}

// A Message is the head of an HTTP message and where it ends.
type Message struct {
	Size   int  // bytes of head and body together
	Status int  // of a response; 0 for a request
	Close  bool // "Connection: close" was said
}

var (
	crlf2   = []byte("\r\n\r\n")
	lenName = []byte("Content-Length")
	conName = []byte("Connection")
	closeV  = []byte("close")
	keepV   = []byte("keep-alive")
	version = []byte("HTTP/1.1 ")
)

// ParseMessage reads the first message in b. ok is false while b holds no
// whole message yet.
func ParseMessage(b []byte) (m Message, ok bool, err error) {
	end := bytes.Index(b, crlf2)
	if end < 0 {
		if len(b) > maxHead {
			return m, false, ErrMalformed
		}
		return m, false, nil
	}
	head := b[:end]
	body := 0
	line, rest, more := bytes.Cut(head, crlf2[:2])
	if s, is := bytes.CutPrefix(line, version); is {
		if len(s) < 3 {
			return m, false, ErrMalformed
		}
		if m.Status, err = strconv.Atoi(string(s[:3])); err != nil || m.Status < 100 {
			return m, false, ErrMalformed
		}
	} else if bytes.HasSuffix(line, []byte(" HTTP/1.0")) {
		m.Close = true
	} else if !bytes.HasSuffix(line, []byte(" HTTP/1.1")) {
		return m, false, ErrMalformed
	}
	for more {
		line, rest, more = bytes.Cut(rest, crlf2[:2])
		name, value, is := bytes.Cut(line, []byte(":"))
		if !is {
			return m, false, ErrMalformed
		}
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, lenName):
			if body, err = strconv.Atoi(string(value)); err != nil || body < 0 || body > 1<<30 {
				return m, false, ErrMalformed
			}
		case bytes.EqualFold(name, conName):
			m.Close = bytes.EqualFold(value, closeV) || m.Close && !bytes.EqualFold(value, keepV)
		}
	}
	m.Size = end + len(crlf2) + body
	return m, len(b) >= m.Size, nil
}
