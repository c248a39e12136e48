package wire

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFramesGoThroughInOrder(t *testing.T) {
	var buf bytes.Buffer
	c := New(&buf, &buf)
	require.NoError(t, c.Send("phase", "client", map[string]int{"at": 7}))
	require.NoError(t, c.Send("done", "", nil))
	require.Equal(t, `{"kind":"phase","host":"client","body":{"at":7}}`+"\n"+`{"kind":"done"}`+"\n", buf.String())

	f, err := c.Recv()
	require.NoError(t, err)
	var body struct{ At int }
	require.NoError(t, f.Decode(&body))
	require.Equal(t, 7, body.At)
	f, err = c.Recv()
	require.NoError(t, err)
	require.Equal(t, Frame{Kind: "done"}, f)
	_, err = c.Recv()
	require.Equal(t, io.EOF, err)
}

func TestRecvTellsCutFramesFromTheEnd(t *testing.T) {
	_, err := New(strings.NewReader(`{"kind":"pha`), io.Discard).Recv()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = New(strings.NewReader("hello\n"), io.Discard).Recv()
	require.ErrorContains(t, err, "not a frame")
}

func TestRecvRefusesALineBeyondTheLimit(t *testing.T) {
	_, err := New(io.MultiReader(strings.NewReader(`{"kind":"`), endless{}), io.Discard).Recv()
	require.ErrorIs(t, err, ErrTooLong)
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func FuzzRecv(f *testing.F) {
	f.Add([]byte(`{"kind":"phase","host":"client","body":{"at":7}}` + "\n"))
	f.Add([]byte("\n\n{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := New(bytes.NewReader(b), io.Discard)
		for range len(b) + 1 {
			if _, err := c.Recv(); err != nil {
				return
			}
		}
		t.Fatal("more frames than bytes")
	})
}
