package twtest_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/measure/twtest"
)

func TestListener(t *testing.T) {
	told := &said{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	l := twtest.Listen(told, s.Listener)
	s.Listener = l
	s.Start()
	defer s.Close()
	one := &http.Client{Transport: &http.Transport{}}
	for range 5 {
		get(t, one, s.URL)
	}
	require.True(t, l.Accepted(1))
	for range 12 {
		get(t, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, s.URL)
	}
	require.False(t, l.Accepted(1))
	require.Contains(t, told.String(), "13 connections were accepted, at most 1 were expected\n  connection 1 from 127.0.0.1:")
	require.Contains(t, told.String(), "\n  and 3 more\n")
	one.CloseIdleConnections()
	require.True(t, l.NothingOpen())
	accepted, open := l.Count()
	require.Equal(t, []int{13, 0}, []int{accepted, open})
}

// A server that forgets to close keeps CLOSE_WAIT.
func TestListenerSeesForgottenConnections(t *testing.T) {
	under, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	told := &said{}
	l := twtest.Listen(told, under)
	defer func() { _ = l.Close() }()
	c, err := net.Dial("tcp4", l.Addr().String())
	require.NoError(t, err)
	s, err := l.Accept()
	require.NoError(t, err)
	require.NoError(t, c.Close())
	_, err = s.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.False(t, l.NothingOpen())
	require.Contains(t, told.String(), "1 connections were not closed by the server\n  connection 1 from 127.0.0.1:")
	require.NoError(t, s.Close())
	require.True(t, l.NothingOpen())
}
