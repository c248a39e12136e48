package stdlib

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// sessions answers the lab's protocol of sessions.
type sessions struct {
	d *driver

	mu     sync.Mutex // guards what follows
	open   map[net.Conn]bool
	closed bool
	all    sync.WaitGroup
}

func (s *sessions) Serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		v, ok := c.(*visit)
		if !ok {
			return errors.Join(errors.New("a connection from elsewhere"), c.Close())
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return c.Close()
		}
		s.open[v] = true
		s.all.Go(func() { s.session(v) })
		s.mu.Unlock()
	}
}

// session answers until the client closes, says nonsense, or is idle for too long.
func (s *sessions) session(v *visit) {
	defer func() {
		s.mu.Lock()
		delete(s.open, v)
		s.mu.Unlock()
		_ = v.Close()
	}()
	row := fmt.Sprintf("ROW %d\n%s", len(s.d.body), s.d.body)
	r := bufio.NewReader(v)
	for {
		if t := s.d.Stdlib.IdleTimeout; t > 0 {
			_ = v.SetReadDeadline(time.Now().Add(t))
		}
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		answer := ""
		switch word, _, _ := strings.Cut(strings.TrimSpace(line), " "); word {
		case "LOGIN":
			answer = "OK\n"
		case "QUERY":
			if s.d.Stdlib.AnswerAfter > 0 {
				time.Sleep(s.d.Stdlib.AnswerAfter)
			}
			answer = row
		case "QUIT": // the client closes now
			continue
		default:
			return
		}
		if _, err := v.Write([]byte(answer)); err != nil {
			return
		}
		if answer == row {
			v.Answered()
		}
	}
}

func (s *sessions) Close() error {
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.all.Wait()
	return nil
}
