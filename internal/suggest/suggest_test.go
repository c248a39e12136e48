package suggest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFor(t *testing.T) {
	require.Equal(t, "; did you mean keepalive?", For("keepalife", []string{"tw-reuse", "keepalive"}))
	require.Equal(t, "; known: a, b", For("something-else", []string{"b", "a", "b"}))
	require.Empty(t, For("x", nil))
	require.Empty(t, For("something-else", make([]string, 30)))
}
