package twtest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/measure/twtest"
)

// said is a T that keeps what it is told.
type said struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *said) Errorf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(&s.text, format+"\n", args...)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// answer is a server that answers with so many bytes.
func answer(t testing.TB, n int) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, n))
	}))
	t.Cleanup(s.Close)
	return s
}

func get(t testing.TB, c *http.Client, url string) {
	t.Helper()
	resp, err := c.Get(url)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
}

// Pain 1: a client for each request. The mend: one client for all.
func TestAClientForEachRequest(t *testing.T) {
	s := answer(t, 10)
	told := &said{}
	w := twtest.Watch(told)
	for range 5 {
		c := w.Client(&http.Client{Transport: &http.Transport{}})
		get(t, c, s.URL)
		c.CloseIdleConnections()
	}
	require.False(t, w.Reuse(0.5))
	require.Contains(t, told.String(), "0 of 5 requests went over a connection that had carried one before (0.000), at least 0.500 were expected")
	require.Contains(t, told.String(), "request 5 (GET "+s.URL+"): opened a connection: it came over a transport of its own: a client for each request")

	w = twtest.Watch(t)
	c := w.Client(&http.Client{})
	for range 5 {
		get(t, c, s.URL)
	}
	w.Reuse(0.8)
	w.Opened(1)
	c.CloseIdleConnections()
	w.NothingOpen()
}

// together sends rounds of so many requests at a time.
func together(t testing.TB, c *http.Client, url string, atATime, rounds int) {
	t.Helper()
	for range rounds {
		var all sync.WaitGroup
		for range atATime {
			all.Go(func() {
				resp, err := c.Get(url)
				if err != nil {
					t.Errorf("get: %v", err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			})
		}
		all.Wait()
	}
}

// Pain 2: Go's pool keeps two idle connections for a host. The mend: as many
// as run at a time.
func TestPoolSmallerThanConcurrency(t *testing.T) {
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(5 * time.Millisecond)
		_, _ = io.WriteString(w, "hello")
	}))
	defer slow.Close()
	told := &said{}
	w := twtest.Watch(told)
	together(t, w.Client(&http.Client{}), slow.URL, 16, 5)
	require.False(t, w.Reuse(0.7))
	require.Contains(t, told.String(), "MaxIdleConnsPerHost is too small (2 where nothing is set)")

	w = twtest.Watch(t)
	together(t, w.Client(&http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, MaxConnsPerHost: 16}}), slow.URL, 16, 5)
	w.Reuse(0.7)
	w.Opened(16)
}

// Pain 3: a body that is not read to its end. The mend: drain it.
func TestBodiesLeftUnread(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"a": 1}`+strings.Repeat(" ", 1<<20))
	}))
	defer s.Close()
	decode := func(c *http.Client, drain bool) {
		resp, err := c.Get(s.URL)
		require.NoError(t, err)
		var v map[string]int
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&v))
		if drain {
			_, err = io.Copy(io.Discard, resp.Body)
			require.NoError(t, err)
		}
		require.NoError(t, resp.Body.Close())
	}
	told := &said{}
	w := twtest.Watch(told)
	c := w.Client(&http.Client{})
	for range 4 {
		decode(c, false)
	}
	require.False(t, w.BodiesRead())
	require.False(t, w.Reuse(0.5))
	require.Contains(t, told.String(), "of 4 bodies 4 were closed before they were read to their end")
	require.Contains(t, told.String(), "request 2 (GET "+s.URL+"): opened a connection: the body of request 1 was closed before it was read to its end")

	w = twtest.Watch(t)
	c = w.Client(&http.Client{})
	for range 4 {
		decode(c, true)
	}
	w.BodiesRead()
	w.Opened(1)
}

// The same, where nobody closes it: the connection stays in use.
func TestBodiesNeverClosed(t *testing.T) {
	s := answer(t, 1<<20)
	told := &said{}
	w := twtest.Watch(told)
	c := w.Client(&http.Client{})
	for range 3 {
		resp, err := c.Get(s.URL)
		require.NoError(t, err)
		defer func() { _ = resp.Body.Close() }()
	}
	require.False(t, w.BodiesRead())
	require.False(t, w.NothingOpen())
	require.False(t, w.Opened(1))
	require.Contains(t, told.String(), "3 were neither read to their end nor closed")
	require.Contains(t, told.String(), "3 connections are still in use and 0 idle")
	require.Contains(t, told.String(), "opened a connection: the bodies of 2 requests before were not closed, so their connections are still in use")
}

// Pain 4: the server's idle time-out is shorter than the client's. The mend: the other way
// round.
func TestServerClosesIdleConnections(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	s.Config.IdleTimeout = 20 * time.Millisecond
	s.Start()
	defer s.Close()
	told := &said{}
	w := twtest.Watch(told)
	c := w.Client(&http.Client{})
	for range 3 {
		get(t, c, s.URL)
		time.Sleep(200 * time.Millisecond)
	}
	require.False(t, w.Reuse(0.5))
	require.Regexp(t, `request 2 .*opened a connection: the server had closed it after it had been idle for \d+ms`, told.String())

	w = twtest.Watch(t)
	c = w.Client(&http.Client{})
	s2 := answer(t, 5) // without a time-out
	for range 3 {
		get(t, c, s2.URL)
		time.Sleep(50 * time.Millisecond)
	}
	w.Reuse(0.6)
}

// Pain 5: a POST meets a connection that the server closes at this moment, and
// fails: POSTs are not tried again. The check names the request.
func TestPOSTOnAConnectionThatIsClosed(t *testing.T) {
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n++; n == 2 {
			panic(http.ErrAbortHandler) // the connection ends without an answer
		}
		_, _ = io.WriteString(w, "hello")
	}))
	defer s.Close()
	told := &said{}
	w := twtest.Watch(told)
	c := w.Client(&http.Client{})
	post := func() error {
		resp, err := c.Post(s.URL, "text/plain", strings.NewReader("x"))
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		return err
	}
	require.NoError(t, post())
	require.ErrorIs(t, post(), io.EOF)
	require.NoError(t, post())
	require.False(t, w.Reuse(0.9))
	require.Regexp(t, `request 3 \(POST .*opened a connection: (request 2 failed on it \(EOF\)|the server closed it in the middle of a request)`, told.String())
}

func TestConnectionClose(t *testing.T) {
	s := answer(t, 5)
	told := &said{}
	w := twtest.Watch(told)
	c := w.Client(&http.Client{})
	for range 2 {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.URL, nil)
		require.NoError(t, err)
		req.Close = true
		resp, err := c.Do(req)
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	require.False(t, w.Reuse(0.5))
	require.Regexp(t, `request 2 .*(Connection: close|Request.Close)`, told.String())
}

// TLS and HTTP/2: the connection is found below the layers.
func TestTLS(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
		s.EnableHTTP2 = h2
		s.StartTLS()
		w := twtest.Watch(t)
		c := w.Client(s.Client())
		for range 5 {
			get(t, c, s.URL)
		}
		w.Reuse(0.8)
		w.Opened(1)
		s.Close()
	}
}

// A healthy client raises no alarm, however often it is looked at.
func TestNoFalseAlarmInAThousandRuns(t *testing.T) {
	s := answer(t, 100)
	for range 1000 {
		w := twtest.Watch(t)
		c := w.Client(&http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4, MaxConnsPerHost: 4}})
		together(t, c, s.URL, 4, 10)
		if !w.Reuse(0.9) || !w.BodiesRead() || !w.Opened(4) {
			return
		}
		c.CloseIdleConnections()
		if !w.NothingOpen() {
			return
		}
	}
}

func TestCloseWait(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("CLOSE_WAIT is counted on Linux")
	}
	closeWait(t)
}

// BenchmarkCost is a request with and without a Watcher: what it adds is the
// difference.
func BenchmarkCost(b *testing.B) {
	s := answer(b, 100)
	for _, watched := range []bool{false, true} {
		b.Run(fmt.Sprintf("watched=%v", watched), func(b *testing.B) {
			c := &http.Client{Transport: &http.Transport{}}
			if watched {
				c = twtest.Watch(b).Client(c)
			}
			for b.Loop() {
				get(b, c, s.URL)
			}
		})
	}
}
