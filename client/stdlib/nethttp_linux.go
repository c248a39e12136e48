package stdlib

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strings"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/internal/conns"
)

// A browser is an http.Client with a transport of its own.
type browser struct {
	owner
	d      *load
	client http.Client
	scheme string
}

// httpEngine prepares what all clients of a load share.
func httpEngine(l client.Stdlib) (func(*load) asker, error) {
	var config *tls.Config
	if l.Protocol == "https" || l.Protocol == "h2" {
		config = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}
		if !config.RootCAs.AppendCertsFromPEM(l.Roots) {
			return nil, errors.New("client: no certificate to trust")
		}
		if l.Resume {
			config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
		}
	}
	return func(d *load) asker {
		b := &browser{d: d, scheme: "http"}
		var p http.Protocols
		p.SetHTTP1(l.Protocol == "" || l.Protocol == "http1" || l.Protocol == "https")
		p.SetHTTP2(l.Protocol == "h2")
		p.SetUnencryptedHTTP2(l.Protocol == "h2c")
		t := &http.Transport{
			MaxIdleConnsPerHost: l.Pool, MaxConnsPerHost: l.MaxConnections, IdleConnTimeout: l.IdleTimeout, DisableKeepAlives: !d.Keepalive,
			DisableCompression: true, Protocols: &p,
		}
		if config != nil {
			b.scheme, t.TLSClientConfig = "https", config.Clone()
		}
		t.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(addr)
			if err != nil {
				return nil, err
			}
			return d.dial(ctx, &b.owner, to)
		}
		b.client.Transport = t
		return b
	}, nil
}

func (b *browser) leave() { b.client.CloseIdleConnections() }

func (b *browser) ask(ctx context.Context, to netip.AddrPort, s *shot) error {
	d := b.d
	var handshake int64
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeStart: func() { handshake = d.Clock() },
		TLSHandshakeDone: func(state tls.ConnectionState, err error) {
			if err != nil {
				return
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			d.tls.Add(d.Clock() - handshake)
			d.stats.Handshakes++
			if state.DidResume {
				d.stats.Resumed++
			}
		},
		GotConn: func(info httptrace.GotConnInfo) {
			if l, ok := conns.Under[*link](info.Conn); ok {
				d.carries(s, l)
			}
		},
		WroteRequest: func(info httptrace.WroteRequestInfo) {
			if info.Err == nil {
				d.mu.Lock()
				defer d.mu.Unlock()
				s.phase = client.Receive
			}
		},
		GotFirstResponseByte: func() { d.answers(s) },
		PutIdleConn: func(err error) {
			if err == nil {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.release(s)
				return
			}
			switch conns.WhyRefused(err) {
			case conns.PoolFull, conns.PoolsFull:
				d.ends(s, client.PoolFull)
			case conns.Disabled:
				d.ends(s, client.NoKeepalive)
			case conns.OtherRefusal: // it is closed already, or is being: whoever did that says why
			}
		},
	})
	req, err := b.request(ctx, to)
	if err != nil {
		return err
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return err
	}
	if resp.Close || !d.Keepalive {
		d.ends(s, client.NoKeepalive)
	}
	if err := read(resp.Body, d.Stdlib.Read, func() { d.ends(s, client.BodyUnread) }); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return status(resp.StatusCode)
	}
	return nil
}

// request makes the one that Method asks for.
func (b *browser) request(ctx context.Context, to netip.AddrPort) (*http.Request, error) {
	url := b.scheme + "://" + to.String() + "/"
	if m := b.d.Stdlib.Method; m == "" || m == client.Get {
		return http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	}
	var body io.Reader = strings.NewReader("order=1") // net/http makes GetBody of this kind
	if b.d.Stdlib.Method == client.PostStream {
		body = io.MultiReader(body) // and not of this one
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err == nil && b.d.Stdlib.Method != client.Post {
		req.Header.Set("Idempotency-Key", "1")
	}
	return req, err
}

// read does with a body what a program may do. unread is called before a body is closed that may
// not be at its end.
func read(body io.ReadCloser, how string, unread func()) error {
	switch how {
	case client.LeaveOpen:
		return nil
	case client.ReadNothing:
		if body != http.NoBody {
			unread()
		}
		return body.Close()
	case client.ReadJSON:
		seen := &ending{Reader: body}
		var v any
		err := json.NewDecoder(seen).Decode(&v)
		if body != http.NoBody && !seen.end {
			unread()
		}
		if errors.Is(err, io.EOF) { // an empty body holds no value
			err = nil
		}
		return errors.Join(err, body.Close())
	}
	_, err := io.Copy(io.Discard, body)
	return errors.Join(err, body.Close())
}

// ending sees whether its reader was read to its end.
type ending struct {
	io.Reader
	end bool
}

func (r *ending) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.end = r.end || errors.Is(err, io.EOF)
	return n, err
}
