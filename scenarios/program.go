package scenarios

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/scenarios/nginxconf"
)

// A Program is somebody else's, between client and server: the client's
// requests go to it, and its own to the server. Command, Env and Files are
// templates (Go's text/template): {{.Dir}} is a directory of its own, {{.Port}}
// where it must listen, {{.Upstream}} the server's address and port, {{.Set.x}}
// what Set says of x.
type Program struct {
	// Command is the program's name and its arguments. It must stay in the
	// foreground.
	Command []string `yaml:"command" json:"command,omitempty"`
	// Package is the Debian package that has it.
	Package string `yaml:"package" json:"package,omitempty"`
	// Version is a command whose first line of output tells the version.
	Version []string `yaml:"version" json:"version,omitempty"`
	// Env are variables of its environment.
	Env map[string]string `yaml:"env" json:"env,omitempty"`
	// Files are written into its directory before it starts.
	Files map[string]string `yaml:"files" json:"files,omitempty"`
	// Set is for variants: what differs between them.
	Set map[string]string `yaml:"set" json:"set,omitempty"`
	// Port is where it listens.
	Port uint16 `yaml:"port" json:"port,omitempty"`
	// Log counts the lines of its output that match a regular expression, as
	// metric proxy.log.NAME.
	Log map[string]string `yaml:"log" json:"log,omitempty"`
	// Mends are advice: where the program ends too early and a line of its output
	// matches the regular expression, the error says this too.
	Mends map[string]string `yaml:"mends" json:"mends,omitempty"`
}

func (p Program) clone() Program {
	p.Env, p.Files, p.Set, p.Log = maps.Clone(p.Env), maps.Clone(p.Files), maps.Clone(p.Set), maps.Clone(p.Log)
	p.Mends = maps.Clone(p.Mends)
	p.Command, p.Version = slices.Clone(p.Command), slices.Clone(p.Version)
	return p
}

// runs says whether there is a program.
func (p Program) runs() bool { return len(p.Command) > 0 }

var logName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// check says what is wrong, and with which path.
func (s Settings) checkProxy() (path string, err error) {
	p := s.Proxy
	if !p.runs() {
		return "", nil
	}
	switch {
	case s.Link != lab.Veth:
		return "link", fmt.Errorf("a proxy has a host of its own: it needs link veth, not %s", s.Link)
	case p.Port == 0:
		return "proxy.port", errors.New("proxy.port is missing: where the program listens")
	case len(s.Population) > 0:
		return "population", errors.New("a population needs client and server face to face, without a proxy")
	}
	for name, expr := range p.Log {
		if !logName.MatchString(name) {
			return "proxy.log", fmt.Errorf("proxy.log: name %q: write small letters, digits and _", name)
		}
		if _, err := regexp.Compile(expr); err != nil {
			return "proxy.log." + name, fmt.Errorf("proxy.log.%s: %w", name, err)
		}
	}
	for expr := range p.Mends {
		if _, err := regexp.Compile(expr); err != nil {
			return "proxy.mends", fmt.Errorf("proxy.mends: %w", err)
		}
	}
	for name := range p.Files {
		if name != strings.TrimLeft(name, "/") || strings.Contains(name, "..") {
			return "proxy.files", fmt.Errorf("proxy.files: %q leads out of the program's directory", name)
		}
	}
	if _, err := s.program("/dir", make([]netip.AddrPort, max(1, int(s.Traffic.Destinations)))); err != nil {
		return "proxy", err
	}
	return "", nil
}

// program fills in the templates.
func (s Settings) program(dir string, servers []netip.AddrPort) (*lab.Program, error) {
	p := s.Proxy
	data := struct {
		Dir, Upstream string
		Upstreams     []string
		Port          uint16
		Set           map[string]string
	}{Dir: dir, Port: p.Port, Set: p.Set, Upstream: servers[0].String()}
	for _, a := range servers {
		data.Upstreams = append(data.Upstreams, a.String())
	}
	var wrong error
	fill := func(where, text string) string {
		t, err := template.New(where).Option("missingkey=error").Parse(text)
		var b strings.Builder
		if err == nil {
			err = t.Execute(&b, data)
		}
		if err != nil && wrong == nil {
			wrong = fmt.Errorf("proxy.%s: %s", where, strings.TrimPrefix(err.Error(), "template: "))
		}
		return b.String()
	}
	out := &lab.Program{Version: p.Version, Port: p.Port, Log: p.Log, Mends: p.Mends, Env: map[string]string{}, Files: map[string]string{}}
	for _, a := range p.Command {
		out.Command = append(out.Command, fill("command", a))
	}
	for name, text := range p.Env {
		out.Env[name] = fill("env."+name, text)
	}
	for name, text := range p.Files {
		out.Files[name] = fill("files."+name, text)
	}
	return out, wrong
}

// Program returns the program that runs between client and server, in a
// directory of its own; nil where there is none.
func (t Trial) Program(dir string) (*lab.Program, error) {
	if !t.Settings.Proxy.runs() {
		return nil, nil
	}
	w, _, s, err := t.World()
	if err != nil {
		return nil, err
	}
	var at []netip.AddrPort
	for _, a := range w.Servers {
		at = append(at, netip.AddrPortFrom(a, s.Listen[0].Port()))
	}
	return t.Settings.program(dir, at)
}

// UseNginxConf adds a variant that runs a person's own nginx.conf, beside
// two of the scenario's own: the first, and full.
func (s *Scenario) UseNginxConf(name string, data []byte) error {
	i := slices.IndexFunc(s.Variants, func(v Variant) bool { return v.Name == "full" })
	if i < 0 || !s.Variants[0].Proxy.runs() || s.Variants[0].Proxy.Command[0] != "nginx" {
		return fmt.Errorf("--nginx-conf is for scenario nginx-keepalive, not %s", s.Name)
	}
	conf, err := nginxconf.Adapt(name, data)
	if err != nil {
		return fmt.Errorf("--nginx-conf: %w", err)
	}
	if conf.Upstreams == 0 {
		return fmt.Errorf("--nginx-conf: %s passes nothing on: there is no upstream server and no proxy_pass", name)
	}
	yours := Variant{Name: "yours", Settings: s.Variants[i].clone(), varies: []string{"proxy.files"}}
	yours.Proxy.Files, yours.Proxy.Port, yours.Proxy.Mends = conf.Files, conf.Port, conf.Mends
	yours.Proxy.Set = map[string]string{"location": name}
	yours.Traffic.Destinations = Destinations(conf.Upstreams)
	if _, err := yours.validate(); err != nil {
		return fmt.Errorf("--nginx-conf: %s: %w", name, err)
	}
	s.Variants = []Variant{s.Variants[0], s.Variants[i], yours}
	s.Expect = slices.DeleteFunc(s.Expect, func(e Expectation) bool { return e.Needs(s.VariantNames()) })
	s.Notes = append(s.Notes, conf.Changes...)
	s.Answer = "nginx opened {none.server.connections.accepted} connections upstream without a pool, {full.server.connections.accepted} with all directives, " +
		"and {yours.server.connections.accepted} with " + filepath.Base(name) + "."
	return nil
}
