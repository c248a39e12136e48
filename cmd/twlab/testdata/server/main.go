// Server is a program for tests of hosts that are other people's programs: it
// answers every request, and misbehaves as its second argument says.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"
)

func main() {
	port, mode := os.Args[1], os.Args[2]
	switch mode {
	case "never": // listens
		time.Sleep(time.Hour)
	case "fork": // and leave
		cmd := exec.Command("/proc/self/exe", port, "child")
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		for range 1000 {
			if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
				_ = c.Close()
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	case "flood":
		go func() {
			for line := strings.Repeat("a flood of words ", 50); ; {
				fmt.Println(line)
			}
		}()
	}
	var served atomic.Int64
	_ = http.ListenAndServe(":"+port, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if served.Add(1) == 10 && mode == "die" {
			os.Exit(4)
		}
		_, _ = fmt.Fprintln(w, "hello")
	}))
}
