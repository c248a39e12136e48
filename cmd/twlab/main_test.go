package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/lab/labtest"
)

// bin is the built binary: exit statuses, re-execution and signals are the
// real ones.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "twlab-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		if err := os.Chmod(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		bin = filepath.Join(dir, "twlab")
		for name, pkg := range map[string]string{bin: ".", filepath.Join(dir, "twlab-test-server"): "./testdata/server"} {
			if out, err := exec.Command("go", "build", "-o", name, pkg).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

// noLab says why no trial can run here; "" where one can.
var noLab = sync.OnceValue(func() string {
	if runtime.GOOS != "linux" {
		return "a lab needs Linux"
	}
	dir, err := os.MkdirTemp("", "twlab-test-")
	if err != nil {
		return err.Error()
	}
	defer func() { _ = os.RemoveAll(dir) }()
	out, err := exec.Command(bin, "run", "keepalive", "--variant", "keepalive", "-q", "-o", filepath.Join(dir, "run"),
		"--set", "traffic.count=20", "--set", "hold=10ms").CombinedOutput()
	if err != nil && strings.Contains(string(out), "user namespace") {
		return string(out)
	}
	return "" // any other failure is for the tests to find
})

// haveProgram says whether a program is here. The error says that it must be.
func haveProgram(name string) (bool, error) {
	_, err := exec.LookPath(name)
	if err != nil {
		_, err = os.Stat(filepath.Join("/usr/sbin", name))
	}
	if err != nil && strings.Contains(os.Getenv("TWLAB_REQUIRE"), name) {
		return false, fmt.Errorf("%s is required here and missing", name)
	}
	return err == nil, nil
}

func requireLab(t *testing.T) {
	t.Helper()
	if why := noLab(); why != "" {
		labtest.Skip(t, "netns", why)
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Dir(bin)+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("NO_COLOR", "1")
			article, err := filepath.Abs("testdata/article")
			e.Setenv("ARTICLE", article)
			e.Setenv("V1", filepath.Join(article, "..", "..", "..", "..", "results", "testdata", "v1"))
			e.Setenv("CI_EXAMPLE", filepath.Join(article, "..", "..", "..", "..", "examples", "ci", "Makefile"))
			if err != nil {
				return err
			}
			// Sockets of a run a moment ago may still be in TIME_WAIT on its port.
			port := 10000 + 100*rand.IntN(200)
			e.Setenv("PORT", strconv.Itoa(port))
			e.Setenv("OTHER_PORT", strconv.Itoa(port+50))
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "netns" {
				why := noLab()
				if why != "" && strings.Contains(os.Getenv("TWLAB_REQUIRE"), "netns") {
					return false, fmt.Errorf("netns is required here and missing: %s", why)
				}
				return why == "", nil
			}
			if name, ok := strings.CutPrefix(cond, "program:"); ok { // daemons are not in everybody's PATH
				return haveProgram(name)
			}
			return false, fmt.Errorf("no condition is called %s", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// status N COMMAND...: COMMAND must end with this exit status.
			"status": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: status N COMMAND...")
				}
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				err = ts.Exec(args[1], args[2:]...)
				var exit *exec.ExitError
				switch {
				case err == nil && want == 0:
				case errors.As(err, &exit) && exit.ExitCode() == want:
				default:
					ts.Fatalf("want exit status %d, got %v\n%s%s", want, err, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
				}
			},
			// truncate FILE N: cut the last N bytes off.
			"truncate": func(ts *testscript.TestScript, _ bool, args []string) {
				name := ts.MkAbs(args[0])
				n, err := strconv.ParseInt(args[1], 10, 64)
				ts.Check(err)
				info, err := os.Stat(name)
				ts.Check(err)
				ts.Check(os.Truncate(name, info.Size()-n))
			},
		},
	})
}

// TestHelpOfEveryCommand: each has a use and a short text, and its help works.
func TestHelpOfEveryCommand(t *testing.T) {
	for _, c := range newRoot(env{}).Commands() {
		if c.Hidden {
			continue
		}
		require.NotEmpty(t, c.Short, c.Name())
		var out strings.Builder
		require.Equal(t, 0, run(t.Context(), env{args: []string{c.Name(), "--help"}, out: &out, err: &out}))
		require.Contains(t, out.String(), "twlab "+c.Name())
	}
}
