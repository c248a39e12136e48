package sock

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseMessageKnowsTheLabsOwn(t *testing.T) {
	keep, closing := Responses(6)
	require.Equal(t, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n", string(keep))
	_, large := Responses(100_000)
	for _, c := range []struct {
		b    []byte
		want Message
	}{
		{RequestKeep, Message{Size: len(RequestKeep)}},
		{RequestClose, Message{Size: len(RequestClose), Close: true}},
		{keep, Message{Size: len(keep), Status: 200}},
		{closing, Message{Size: len(closing), Status: 200, Close: true}},
		{large, Message{Size: len("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n") + 100_000, Status: 200, Close: true}},
	} {
		m, ok, err := ParseMessage(c.b)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, c.want, m)
		for cut := range min(len(c.b), 100) {
			_, ok, err := ParseMessage(c.b[:cut])
			require.NoError(t, err)
			require.False(t, ok, "%d of %d bytes are no whole message", cut, len(c.b))
		}
	}
}

func TestParseMessageRefuses(t *testing.T) {
	for _, s := range []string{
		"HTTP/1.1 20\r\n\r\n",
		"HTTP/1.1 abc OK\r\n\r\n",
		"hello\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
	} {
		_, _, err := ParseMessage([]byte(s))
		require.ErrorIs(t, err, ErrMalformed, "%q", s)
	}
}

func FuzzParseMessage(f *testing.F) {
	_, closing := Responses(6)
	f.Add(closing)
	f.Add(RequestClose)
	f.Add([]byte("HTTP/1.1 502 x\r\ncontent-length:3\r\nconnection: Close\r\n\r\nabc"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok, err := ParseMessage(b)
		if err != nil && ok {
			t.Fatal("malformed and whole at once")
		}
		if ok && (m.Size <= 0 || m.Size > len(b)) {
			t.Fatalf("size %d of %d bytes", m.Size, len(b))
		}
	})
}
