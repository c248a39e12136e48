package measure

import "strings"

// An Explanation says what a state means for a person who runs servers.
type Explanation struct {
	State State
	// RFC is the name in RFC 9293; Kernel the constant in
	// include/net/tcp_states.h; Also are spellings found in articles and other
	// tools.
	RFC, Kernel string
	Also        []string
	Is          string   // what it is
	In, Out     string   // how a socket comes in, and leaves
	Side        string   // which side of a connection has it
	Lasts       string   // how long
	Heap        string   // what many of them mean
	Helps       string   // what to do about them
	Scenarios   []string // that show it
}

// Explanations has one for every state, in the order of a connection's life.
var Explanations = []Explanation{
	{
		State: Listen, RFC: "LISTEN", Kernel: "TCP_LISTEN", Also: []string{"LISTENING"},
		Is: "A server's socket that waits for connections. It is no connection itself.",
		In: "listen().", Out: "close() of the listener.",
		Side: "The server.", Lasts: "As long as the server wants.",
		Heap:  "Many listeners, nothing more.",
		Helps: "Where a client is refused, look here first: is the port listed, and on which address?", Scenarios: []string{"keepalive", "restart-bind"},
	},
	{
		State: SynSent, RFC: "SYN-SENT", Kernel: "TCP_SYN_SENT", Also: []string{"SYNC_SEND", "SYN_SEND", "SYNC_SENT"},
		Is: "connect() has sent its SYN and waits for an answer.",
		In: "connect().", Out: "To ESTABLISHED with the SYN+ACK; to CLOSE with a RST (ECONNREFUSED) or when tcp_syn_retries are used up (ETIMEDOUT).",
		Side:  "The side that connects.",
		Lasts: "One round trip; without an answer one to two minutes (tcp_syn_retries, 6; newer kernels send the first ones faster).",
		Heap:  "The other side is down, drops packets, or its accept queue is full.",
		Helps: "Look at the other side and at firewalls on the way. A time-out of your own in the client; no sysctl brings an answer.", Scenarios: []string{"all-states"},
	},
	{
		State: SynRecv, RFC: "SYN-RECEIVED", Kernel: "TCP_SYN_RECV, and TCP_NEW_SYN_RECV for a request without a full socket",
		Also:  []string{"SYN_RECEIVED", "SYNC_RECEIVED", "SYN_RCVD", "SYN-RECV"},
		Is:    "A SYN has come, the SYN+ACK is out, the last ACK of the handshake is missing.",
		In:    "A SYN at a listener; or two sides that connect to each other at once.",
		Out:   "To ESTABLISHED with the ACK; gone when tcp_synack_retries are used up, or with a RST.",
		Side:  "The side that listens.",
		Lasts: "One round trip; without the ACK about a minute (5 retransmissions).",
		Heap:  "Clients that never send the ACK: a SYN flood, or a way back that is broken.",
		Helps: "tcp_syncookies 1 answers without keeping state when the queue is full. None of this touches TIME_WAIT.", Scenarios: []string{"all-states"},
	},
	{
		State: Established, RFC: "ESTABLISHED", Kernel: "TCP_ESTABLISHED", Also: []string{"ESTAB"},
		Is: "The connection is open in both directions.",
		In: "The end of the handshake.", Out: "To FIN_WAIT1 by close() or shutdown() here, to CLOSE_WAIT by the other side's FIN, to CLOSE by a RST.",
		Side: "Both.", Lasts: "As long as both sides want; for ever if the other side vanishes and nobody sends.",
		Heap:  "Traffic, or a pool. One that only grows is a leak, or peers that vanished.",
		Helps: "Idle time-outs in the application; SO_KEEPALIVE finds peers that vanished (tcp_keepalive_time, two hours).", Scenarios: []string{"keepalive"},
	},
	{
		State: FinWait1, RFC: "FIN-WAIT-1", Kernel: "TCP_FIN_WAIT1", Also: []string{"FIN_WAIT_1", "FIN-WAIT-1"},
		Is: "This side has closed first; its FIN is on the way, or waits behind data that the other side does not take.",
		In: "close() or shutdown() in ESTABLISHED.", Out: "To FIN_WAIT2 with the ACK of the FIN; to TIME_WAIT where that ACK carries the other's FIN; to CLOSING where the FIN comes without it.",
		Side:  "The side that closes first.",
		Lasts: "One round trip; behind data until that is read. Without an owner tcp_orphan_retries end it.",
		Heap:  "Peers that stopped reading or vanished, with data still unsent.",
		Helps: "A write time-out in the application. tcp_orphan_retries shortens it; tcp_fin_timeout does not.", Scenarios: []string{"all-states"},
	},
	{
		State: FinWait2, RFC: "FIN-WAIT-2", Kernel: "TCP_FIN_WAIT2", Also: []string{"FIN_WAIT_2", "FIN-WAIT-2"},
		Is: "This side's FIN is acknowledged; the other side has not closed yet.",
		In: "The ACK of the FIN in FIN_WAIT1.", Out: "To TIME_WAIT with the other's FIN; without an owner gone after tcp_fin_timeout.",
		Side:  "The side that closes first; the other is in CLOSE_WAIT.",
		Lasts: "Until the other closes. Without an owner tcp_fin_timeout T: T seconds up to 60, twice what exceeds 60 above (61 gives 2 s). Held by a process, for ever.",
		Heap:  "The other side forgets to close: look for CLOSE_WAIT there.",
		Helps: "Mend the other side. tcp_fin_timeout shortens it for sockets without an owner.", Scenarios: []string{"fin-timeout"},
	},
	{
		State: CloseWait, RFC: "CLOSE-WAIT", Kernel: "TCP_CLOSE_WAIT", Also: []string{"CLOSE-WAIT"},
		Is: "The other side has closed; this side's application has not, yet.",
		In: "The other's FIN in ESTABLISHED.", Out: "To LAST_ACK by close() here. Nothing else ends it: no timer, no sysctl.",
		Side:  "The side that closes last.",
		Lasts: "Until the application calls close(), or ends.",
		Heap:  "A leak in this application: it read the end of the stream, or never reads, and forgets to close.",
		Helps: "Find who holds them (ss -tanp state close-wait) and close there: unread response bodies, pools that never look, workers that hang.", Scenarios: []string{"close-wait-leak", "stale-close-wait"},
	},
	{
		State: LastAck, RFC: "LAST-ACK", Kernel: "TCP_LAST_ACK", Also: []string{"LAST-ACK"},
		Is: "Both have closed; this side's FIN waits for its ACK.",
		In: "close() in CLOSE_WAIT.", Out: "Gone with the ACK.",
		Side:  "The side that closes last.",
		Lasts: "One round trip; behind unsent data until that is read, or tcp_orphan_retries end it.",
		Heap:  "Peers that closed and vanished, or data that they never read.",
		Helps: "Seldom a trouble. tcp_orphan_retries shortens it.", Scenarios: []string{"all-states"},
	},
	{
		State: Closing, RFC: "CLOSING", Kernel: "TCP_CLOSING",
		Is: "Both sides closed at once: the other's FIN is here, the ACK of this side's is not.",
		In: "The other's FIN in FIN_WAIT1.", Out: "To TIME_WAIT with the ACK, on both sides.",
		Side:  "Both.",
		Lasts: "One round trip; behind unsent data until that is read.",
		Heap:  "Peers that vanished in the middle of a simultaneous close. Rare.",
		Helps: "Nothing needs to be done.", Scenarios: []string{"all-states"},
	},
	{
		State: TimeWait, RFC: "TIME-WAIT", Kernel: "TCP_TIME_WAIT", Also: []string{"ITMED_WAIT", "TIMED_WAIT", "TIME-WAIT", "TW"},
		Is: "The connection is over. Its addresses and ports stay reserved, so that late segments cannot reach a new one and the last ACK can be sent again.",
		In: "The other's FIN in FIN_WAIT2, the ACK in CLOSING.", Out: "Gone after 60 s; or taken over by a new connection (tcp_tw_reuse on the side that connects; a newer SYN on the side that listens).",
		Side:  "The side that closes first.",
		Lasts: "60 s, up to 62 with the timer's steps. TCP_TIMEWAIT_LEN is a constant of the kernel; no sysctl changes it, tcp_fin_timeout least of all.",
		Heap:  "Many short connections: connections a second times 60. Harmless on a server. On a client each one holds a port towards one destination: with the default range 28,232 of them.",
		Helps: "Reuse connections (keepalive, a pool of the right size). Let the server close. More destination or source addresses, a wider ip_local_port_range, tcp_tw_reuse 1 on the side that connects.", Scenarios: []string{"keepalive", "port-exhaustion", "tw-reuse", "fin-timeout", "tw-buckets", "syn-into-time-wait", "restart-bind", "linger-reset", "assassination"},
	},
	{
		State: Close, RFC: "CLOSED", Kernel: "TCP_CLOSE", Also: []string{"CLOSED", "UNCONN"},
		Is: "No connection: a socket that was made, perhaps bound, and is not connected; or one that a RST ended and the application still holds.",
		In: "socket(), a RST, the end of any other state.", Out: "connect(), listen(), close().",
		Side: "Either.", Lasts: "As long as the application holds it.",
		Heap:  "Seldom seen: netstat, /proc/net/tcp and older ss leave bound sockets out; sock_diag lists them since Linux 6.8.",
		Helps: "Close what ended with an error.", Scenarios: []string{"all-states"},
	},
}

// Explain finds the explanation of a state by any of its names, in any case.
func Explain(name string) (Explanation, bool) {
	fold := func(s string) string {
		return strings.ToUpper(strings.NewReplacer("-", "", "_", "", " ", "").Replace(s))
	}
	for _, e := range Explanations {
		for _, n := range append([]string{e.State.String(), e.RFC, "TCP_" + e.State.String()}, e.Also...) {
			if fold(n) == fold(name) {
				return e, true
			}
		}
	}
	return Explanation{}, false
}

// Diagram shows the transitions of RFC 9293, section 3.3.2, as they look on
// either side.
const Diagram = `              the side that connects          the side that listens

                     CLOSE                           CLOSE
                       | connect(): SYN                | listen()
                   SYN_SENT                          LISTEN
                       |                               | SYN came: SYN+ACK
                       |                           SYN_RECV
                       | SYN+ACK came: ACK             | ACK came
                       +-------> ESTABLISHED <---------+

          the side that closes first          the side that closes last

                               ESTABLISHED
        close(): FIN |                               | FIN came: ACK
                 FIN_WAIT1 ------------+        CLOSE_WAIT
      ACK came |       | FIN+ACK came  | FIN         | close(): FIN
           FIN_WAIT2   |               | came     LAST_ACK
      FIN came |       |            CLOSING          | ACK came
               v       v               | ACK came    v
             TIME_WAIT <---------------+           CLOSE
               | 60 s
             CLOSE
`
