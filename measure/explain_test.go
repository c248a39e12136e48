package measure

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryStateIsExplained(t *testing.T) {
	require.Len(t, Explanations, len(States))
	for _, s := range States {
		e, ok := Explain(s.String())
		require.True(t, ok)
		require.Equal(t, s, e.State)
		for _, text := range []string{e.RFC, e.Kernel, e.Is, e.In, e.Out, e.Side, e.Lasts, e.Heap, e.Helps} {
			require.NotEmpty(t, text, s)
		}
		require.Contains(t, Diagram, s.String())
	}
}

func TestSpellingsFoundInArticles(t *testing.T) {
	for name, want := range map[string]State{
		"time_wait": TimeWait, "TIME-WAIT": TimeWait, "ITMED_WAIT": TimeWait, "SYNC_RECEIVED": SynRecv, "SYN_RECEIVED": SynRecv, "SYN_RCVD": SynRecv,
		"SYNC_SEND": SynSent, "fin_wait_1": FinWait1, "FIN-WAIT-2": FinWait2, "LISTENING": Listen, "closed": Close, "ESTAB": Established,
		"TCP_LAST_ACK": LastAck, "close wait": CloseWait, "closing": Closing,
	} {
		e, ok := Explain(name)
		require.True(t, ok, name)
		require.Equal(t, want, e.State, name)
	}
	_, ok := Explain("WAITING")
	require.False(t, ok)
}
