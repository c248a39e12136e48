package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/twlab/twlab/scenarios"
	"github.com/twlab/twlab/scenarios/forecast"
)

// planFlags are what shapes a plan, the same for plan and run.
type planFlags struct {
	variants []string
	set      []string
	sysctls  []string
	expect   []string
	seed     uint64
	repeat   int
	full     bool
	lab      string
	nginx    string // files of the user's
	sysctl   string
}

func (f *planFlags) register(c *cobra.Command) {
	c.Flags().StringSliceVar(&f.variants, "variant", nil, "run only this variant (again for more)")
	c.Flags().StringArrayVar(&f.set, "set", nil, "set `path=value` for all variants, such as traffic.rate=500/s or link=loopback")
	c.Flags().StringArrayVar(&f.sysctls, "sysctl", nil, "set `name=value` on every stack of the lab, such as tcp_tw_reuse=1")
	c.Flags().IntVar(&f.repeat, "repeat", 1, "run each variant so often")
	c.Flags().BoolVar(&f.full, "full", false, "the long form of the scenario, with whole TIME_WAIT lives")
	c.Flags().StringVar(&f.lab, "lab", "netns", "where: netns (namespaces of their own), or host (this machine's own loopback; no sysctl is written)")
	c.Flags().StringVar(&f.nginx, "nginx-conf", "", "run nginx-keepalive with this nginx.conf too")
	c.Flags().StringVar(&f.sysctl, "sysctl-file", "", "try the lines of this sysctl.conf in scenario sysctl-file")
	c.Flags().StringArrayVar(&f.expect, "expect", nil, "expect this too, such as 'client.time_wait.peak <= 100'")
	c.Flags().Uint64Var(&f.seed, "seed", 1, "decides the order of the trials")
	_ = c.RegisterFlagCompletionFunc("variant", func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var names []string
		for _, a := range args {
			if s, err := scenarios.Find(a, f.full); err == nil {
				names = append(names, s.VariantNames()...)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
}

// files lets a scenario run with the user's own files.
func (f *planFlags) files(s *scenarios.Scenario) error {
	for _, file := range []struct {
		name string
		use  func(name string, data []byte) error
	}{{f.nginx, s.UseNginxConf}, {f.sysctl, s.UseSysctlFile}} {
		if file.name == "" {
			continue
		}
		data, err := os.ReadFile(file.name)
		if err != nil {
			return err
		}
		if err := file.use(file.name, data); err != nil {
			return err
		}
	}
	return nil
}

// plans resolves the named scenarios. All that can be wrong in them is the
// caller's, but a file that cannot be read.
func (f *planFlags) plans(names []string) ([]*scenarios.Plan, error) {
	var overrides []scenarios.Override
	for _, s := range f.set {
		o, err := scenarios.ParseOverride(s)
		if err != nil {
			return nil, usage(err)
		}
		overrides = append(overrides, o)
	}
	for _, s := range f.sysctls {
		o, err := scenarios.ParseSysctl(s)
		if err != nil {
			return nil, usage(err)
		}
		overrides = append(overrides, o)
	}
	if f.repeat < 1 {
		return nil, usage(fmt.Errorf("--repeat %d: at least 1", f.repeat))
	}
	var out []*scenarios.Plan
	for _, name := range names {
		s, err := scenarios.Find(name, f.full)
		if err == nil {
			err = f.files(s)
		}
		if err != nil {
			var pe *os.PathError
			if errors.As(err, &pe) && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			return nil, usage(err)
		}
		p, err := s.Plan(scenarios.Options{Seed: f.seed, Repeat: f.repeat, Only: f.variants, Set: overrides, Machine: f.lab == "host"})
		if err != nil {
			return nil, usage(err)
		}
		if err := p.AddExpectations(f.expect); err != nil {
			return nil, usage(fmt.Errorf("--expect: %w", err))
		}
		out = append(out, p)
	}
	return out, nil
}

// completeScenarios completes the names of built-in scenarios, and files.
func completeScenarios(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return scenarios.Names(), cobra.ShellCompDirectiveDefault
}

func newPlan(e env) *cobra.Command {
	var f planFlags
	c := &cobra.Command{
		Use:               "plan NAME|FILE...",
		Short:             "Show what a run would do and need; run nothing",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE: func(_ *cobra.Command, args []string) error {
			plans, err := f.plans(args)
			if err != nil {
				return err
			}
			for _, p := range plans {
				if err := printPlan(e, p); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f.register(c)
	return c
}

func printPlan(e env, p *scenarios.Plan) error {
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush returns what went wrong
	say("%s: %s\n\n", p.Scenario.Name, p.Scenario.Question)
	say("trial\tvariant\trequests\tconnections\tTIME_WAIT peak\tdestinations\tports each\tof\topen files\tseconds\t\n")
	var notes []string
	for _, t := range p.Trials {
		c, f := t.Cost(), forecast.Of(t)
		connections := c.Connections
		if n, ok := f.Figures["client.connections.opened"]; ok {
			connections = int64(n)
		}
		say("%d\t%s\t%d\t%d\t%s\t%d\t%d\t%d\t%d\t%.1f\t\n", t.Number, t.Variant, c.Requests, connections, peak(f), t.Destinations,
			(connections+int64(t.Destinations)-1)/int64(t.Destinations), t.Settings.PortRange(), c.Files, c.Wall.Seconds())
		for _, n := range f.Notes {
			notes = append(notes, t.Variant+": "+n)
		}
	}
	wall, how := p.Wall(), "one after another"
	if p.Scenario.Parallel {
		wall, how = 0, "side by side"
		for _, t := range p.Trials {
			wall = max(wall, t.Cost().Wall)
		}
	}
	trials := fmt.Sprintf("%d trials", len(p.Trials))
	if len(p.Trials) == 1 {
		trials = "1 trial"
	}
	say("\n%s, %s, about %s; up to %d open files in one process\n",
		trials, how, time.Duration(math.Ceil(wall.Seconds()))*time.Second, p.Files())
	for _, n := range notes {
		say("forecast: %s\n", n)
	}
	return w.Flush()
}

// peak is the forecast of TIME_WAIT, by side.
func peak(f forecast.Forecast) string {
	var out []string
	for _, host := range []string{"client", "server"} {
		if n, ok := f.Figures[host+".time_wait.peak"]; ok && n > 0 {
			out = append(out, fmt.Sprintf("%.0f %s", n, host))
		}
	}
	if len(out) == 0 {
		if _, known := f.Figures["server.time_wait.peak"]; known {
			return "0"
		}
		return "-"
	}
	return strings.Join(out, ", ")
}
