package twtest_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/twlab/twlab/measure/twtest"
)

// printer is a T for examples; tests give their *testing.T.
type printer struct{}

func (printer) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// A client that closes bodies before it has read them opens a connection for
// each request.
func Example() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("hello ", 100_000))
	}))
	defer server.Close()

	w := twtest.Watch(printer{}) // in a test: twtest.Watch(t)
	client := w.Client(&http.Client{})
	for range 3 {
		resp, err := client.Get(server.URL + "/")
		if err != nil {
			fmt.Println(err)
			return
		}
		_ = resp.Body.Close() // the mend: io.Copy(io.Discard, resp.Body) before
	}
	fmt.Println(w.Stats().Opened, "connections for", w.Stats().Requests, "requests")
	fmt.Println(w.Stats().Unread, "bodies unread")
	// Output:
	// 3 connections for 3 requests
	// 3 bodies unread
}
