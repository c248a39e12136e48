// Command twlab reproduces TCP TIME_WAIT (and every other TCP state) on
// demand, and measures what keepalive and sysctls do to it on this kernel.
//
// Run `twlab help` for its use, and see the README.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), env{args: os.Args[1:], in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}
