package stdlib

import (
	"bufio"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/twlab/twlab/client"
)

// A database is an sql.DB over the lab's protocol of sessions: a line for each step, "LOGIN name",
// "QUERY text", "QUIT", answered by "OK", "ROW size" with so many bytes, and nothing. The client closes after
// QUIT; the server waits for that, as databases' clients have it.
type database struct {
	owner
	d  *load
	db *sql.DB
}

type shotKey struct{}

func newDatabase(d *load) asker {
	a := &database{d: d}
	a.db = sql.OpenDB(connector{a})
	l := d.Stdlib
	switch {
	case !d.Keepalive:
		a.db.SetMaxIdleConns(-1)
	case l.Pool > 0:
		a.db.SetMaxIdleConns(l.Pool)
	}
	a.db.SetMaxOpenConns(l.MaxConnections)
	a.db.SetConnMaxIdleTime(l.IdleTimeout)
	return a
}

func (a *database) ask(ctx context.Context, _ netip.AddrPort, s *shot) error {
	rows, err := a.db.QueryContext(context.WithValue(ctx, shotKey{}, s), "select")
	if err != nil {
		return err
	}
	for rows.Next() {
		var v []byte
		if err := rows.Scan(&v); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

// leave closes the pool, which says why it closed connections before.
func (a *database) leave() {
	s := a.db.Stats()
	a.d.mu.Lock()
	for why, n := range map[client.Cause]int64{client.PoolFull: s.MaxIdleClosed, client.ClientIdle: s.MaxIdleTimeClosed} {
		if !a.d.Keepalive {
			why = client.NoKeepalive
		}
		if n > 0 {
			a.d.causes[why] += n
		}
	}
	a.d.mu.Unlock()
	_ = a.db.Close() // of connections that are there no more
}

// connector opens sessions. All of a database's go to the same place.
type connector struct{ a *database }

func (c connector) Driver() driver.Driver { return nil }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	d := c.a.d
	l, err := d.dial(ctx, &c.a.owner, d.Destinations[0])
	if err != nil {
		return nil, err
	}
	s := &session{d: d, link: l, r: bufio.NewReader(l)}
	if err := s.login(ctx); err != nil {
		_ = l.Close()
		return nil, err
	}
	return s, nil
}

// session is a connection that is logged in.
type session struct {
	d    *load
	link *link
	r    *bufio.Reader
	bad  bool
}

// step sends a line and reads the line that answers it.
func (s *session) step(ctx context.Context, line string) (string, error) {
	if t, ok := ctx.Deadline(); ok {
		_ = s.link.SetDeadline(t)
	}
	stop := context.AfterFunc(ctx, func() { _ = s.link.Close() })
	defer stop()
	if _, err := io.WriteString(s.link, line+"\n"); err != nil {
		return "", err
	}
	answer, err := s.r.ReadString('\n')
	return strings.TrimSuffix(answer, "\n"), err
}

func (s *session) login(ctx context.Context) error {
	answer, err := s.step(ctx, "LOGIN twlab")
	if err == nil && answer != "OK" {
		return fmt.Errorf("login: %q", answer)
	}
	return err
}

func (s *session) QueryContext(ctx context.Context, query string, _ []driver.NamedValue) (driver.Rows, error) {
	shot, _ := ctx.Value(shotKey{}).(*shot)
	s.d.carries(shot, s.link)
	answer, err := s.step(ctx, "QUERY "+query)
	if err != nil {
		s.bad = true
		if answer == "" && s.link.Count() > 0 && ctx.Err() == nil {
			return nil, driver.ErrBadConn // it had ended while nobody used it: the pool tries another
		}
		return nil, err
	}
	s.d.answers(shot)
	size, err := strconv.Atoi(strings.TrimPrefix(answer, "ROW "))
	if err != nil || size < 0 {
		return nil, fmt.Errorf("query: %q", answer)
	}
	row := make([]byte, size)
	if _, err := io.ReadFull(s.r, row); err != nil {
		s.bad = true
		return nil, err
	}
	done := func() {
		s.d.mu.Lock()
		defer s.d.mu.Unlock()
		s.d.release(shot)
	}
	return &rows{row: row, done: done}, nil
}

// Close ends the session.
func (s *session) Close() error {
	if !s.bad {
		_, _ = io.WriteString(s.link, "QUIT\n") // the other side may be gone
	}
	return s.link.Close()
}

// IsValid implements driver.Validator.
func (s *session) IsValid() bool { return !s.bad }

var errOnlyQueries = errors.New("a session of the lab knows queries only")

func (s *session) Prepare(string) (driver.Stmt, error) { return nil, errOnlyQueries }
func (s *session) Begin() (driver.Tx, error)           { return nil, errOnlyQueries }

// rows is an answer of one row with one column.
type rows struct {
	row  []byte
	read bool
	done func()
}

func (r *rows) Columns() []string { return []string{"text"} }

// Close is called before the session goes back to the pool.
func (r *rows) Close() error {
	r.done()
	return nil
}

func (r *rows) Next(dest []driver.Value) error {
	if r.read {
		return io.EOF
	}
	r.read = true
	dest[0] = r.row
	return nil
}
