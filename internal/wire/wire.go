// Package wire carries frames between twlab processes: one JSON object a line,
// over pipes, with a size limit.
//
// A frame has a kind, the name of the host or stack it concerns, and a body
// that only sender and receiver understand. Pipes leave no trace in the socket
// table that is being measured, and whatever can give a pipe (exec, ssh, a
// container engine) can carry them.
package wire

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Limit is the longest frame that Recv takes, in bytes: about an hour of
// snapshots ten times a second.
const Limit = 64 << 20

// ErrTooLong reports a frame longer than Limit.
var ErrTooLong = errors.New("frame is longer than 64 MiB")

// A Frame is one message. Readers ignore kinds and fields they do not know.
type Frame struct {
	Kind string          `json:"kind"`
	Host string          `json:"host,omitempty"`
	Body json.RawMessage `json:"body,omitempty"`
}

// Decode unpacks the body into v.
func (f Frame) Decode(v any) error {
	if err := json.Unmarshal(f.Body, v); err != nil {
		return fmt.Errorf("frame %q of %q: %w", f.Kind, f.Host, err)
	}
	return nil
}

// A Conn sends and receives frames. Send may be called by several goroutines
// at once; Recv by one at a time.
type Conn struct {
	r *bufio.Reader

	mu sync.Mutex // held while a frame is written, so that lines stay whole
	w  io.Writer
}

// New returns a Conn that reads frames from r and writes them to w.
func New(r io.Reader, w io.Writer) *Conn {
	return &Conn{r: bufio.NewReaderSize(r, 64<<10), w: w}
}

// Send writes one frame. A nil body sends none.
func (c *Conn) Send(kind, host string, body any) error {
	f := Frame{Kind: kind, Host: host}
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("frame %q: %w", kind, err)
		}
		f.Body = b
	}
	return c.Forward(f)
}

// Forward writes a frame as it is.
func (c *Conn) Forward(f Frame) error {
	line, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("frame %q: %w", f.Kind, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("send frame %q: %w", f.Kind, err)
	}
	return nil
}

// Recv reads the next frame. It returns io.EOF when the sender has closed the
// pipe between two frames, io.ErrUnexpectedEOF when within one.
func (c *Conn) Recv() (Frame, error) {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > Limit {
			return Frame{}, ErrTooLong
		}
		if err == nil {
			break
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) && len(line) > 0 {
			return Frame{}, io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	var f Frame
	if err := json.Unmarshal(line, &f); err != nil {
		return Frame{}, fmt.Errorf("not a frame: %w", err)
	}
	return f, nil
}
