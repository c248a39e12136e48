package scenarios

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v4"

	"github.com/twlab/twlab/internal/suggest"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/results/metric"
)

// A file is a scenario as it is written.
type file struct {
	Scenario `yaml:",inline"`
	// Variants each lay their settings over the scenario's.
	Variants []yaml.Node `yaml:"variants"`
	// Matrix makes a variant of every combination: settings' paths or names of
	// sysctls, each with a list of values.
	Matrix yaml.Node   `yaml:"matrix"`
	Expect []yaml.Node `yaml:"expect"`
	// Full is the long form, which --full asks for: what it names takes the
	// place of the same key above; settings lie over those above.
	Full yaml.Node `yaml:"full"`
}

// overlay is a variant as it is written.
type overlay struct {
	Name     string `yaml:"name"`
	Settings `yaml:",inline"`
}

// Parse reads a scenario, in its long form where full asks for it and it has
// one. name stands before the line in errors: "my.yaml:12". Every mistake that
// the reader of YAML finds is reported at once.
func Parse(name string, data []byte, full bool) (*Scenario, error) {
	f := file{Scenario: Scenario{Settings: defaults()}}
	if err := yaml.Load(data, &f, yaml.WithKnownFields()); err != nil {
		return nil, located(name, err, f)
	}
	if !full && f.Full.Kind != 0 { // a mistake in the long form is found before it is asked for
		if _, err := Parse(name, data, true); err != nil {
			return nil, err
		}
	}
	if long := f.Full; full && long.Kind != 0 {
		has := func(key string) bool { return find(&long, key) > 0 }
		if has("variants") || has("matrix") {
			f.Variants, f.Matrix = nil, yaml.Node{}
		}
		f.Full = yaml.Node{}
		if err := long.Load(&f, yaml.WithKnownFields()); err != nil {
			return nil, located(name, err, f)
		}
	}
	s := &f.Scenario
	at := func(line int, err error) error { return fmt.Errorf("%s:%d: %w", name, line, err) }
	switch {
	case !variantName.MatchString(s.Name):
		return nil, fmt.Errorf("%s: name %q: write small letters, digits, - and _, starting with a letter", name, s.Name)
	case s.Question == "":
		return nil, fmt.Errorf("%s: question is missing: one line that says what the scenario asks", name)
	case len(f.Variants) == 0 && f.Matrix.Kind == 0:
		return nil, fmt.Errorf("%s: variants are missing: at least one with a name, or a matrix", name)
	}
	for i := range f.Variants {
		n := &f.Variants[i]
		o := overlay{Settings: s.clone()}
		if err := n.Load(&o, yaml.WithKnownFields()); err != nil {
			return nil, located(name, err, o)
		}
		if !variantName.MatchString(o.Name) {
			return nil, at(n.Line, fmt.Errorf("variant's name %q: write small letters, digits, - and _, starting with a letter", o.Name))
		}
		if slices.Contains(s.VariantNames(), o.Name) {
			return nil, at(n.Line, fmt.Errorf("variant %s stands here a second time", o.Name))
		}
		if path, err := o.validate(); err != nil {
			return nil, at(lineOf(path, n, data), fmt.Errorf("variant %s: %w", o.Name, err))
		}
		s.Variants = append(s.Variants, Variant{Name: o.Name, Settings: o.Settings, varies: paths(n, "")})
	}
	if f.Matrix.Kind != 0 {
		if err := s.multiply(&f.Matrix); err != nil {
			return nil, at(f.Matrix.Line, fmt.Errorf("matrix: %w", err))
		}
	}
	if s.SysctlFile != "" {
		if err := s.tryLines([]byte(s.SysctlFile)); err != nil {
			return nil, at(lineOf("sysctl_file", nil, data), fmt.Errorf("sysctl_file: %w", err))
		}
	}
	for i := range f.Expect {
		n := &f.Expect[i]
		text := n.Value
		if n.Kind == yaml.MappingNode && len(n.Content) == 2 { // "some-*: claim"
			text = n.Content[0].Value + ": " + n.Content[1].Value
		}
		e, err := ParseExpectation(text, s.Variants)
		if err != nil {
			return nil, at(n.Line, err)
		}
		s.Expect = append(s.Expect, e)
	}
	for _, c := range s.Columns {
		if _, ok := metric.Lookup(c); !ok {
			return nil, at(lineOf("columns", nil, data), fmt.Errorf("columns: no metric is called %s%s", c, suggest.For(c, metric.Names())))
		}
	}
	if err := checkAnswer(s.Answer, s.Variants); err != nil {
		return nil, at(lineOf("answer", nil, data), err)
	}
	return s, nil
}

// maxVariants is the most that a matrix may make.
const maxVariants = 128

// multiply adds a variant for every combination of the matrix's values.
func (s *Scenario) multiply(m *yaml.Node) error {
	if m.Kind != yaml.MappingNode || len(m.Content) == 0 {
		return errors.New("write settings or sysctls, each with a list of values")
	}
	total := 1
	for i := 0; i < len(m.Content); i += 2 {
		list := m.Content[i+1]
		if list.Kind != yaml.SequenceNode || len(list.Content) == 0 {
			return fmt.Errorf("%s has no list of values: write such as [0, 1, 2]", m.Content[i].Value)
		}
		total *= len(list.Content)
		if total > 1_000_000_000 {
			break
		}
	}
	if total > maxVariants {
		return fmt.Errorf("it makes %d variants, and %d are the most: name fewer values", total, maxVariants)
	}
	base := Variant{Settings: s.Settings}
	combined := []Variant{base}
	for i := 0; i < len(m.Content); i += 2 {
		key, values := m.Content[i].Value, m.Content[i+1].Content
		var next []Variant
		for _, v := range combined {
			for _, value := range values {
				w := Variant{Name: strings.TrimPrefix(v.Name+"-"+valueName(key, value.Value), "-"), Settings: v.clone(), varies: slices.Clone(v.varies)}
				if err := assign(&w, key, value.Value); err != nil {
					return err
				}
				w.varies = append(w.varies, key)
				next = append(next, w)
			}
		}
		combined = next
	}
	for _, v := range combined {
		if _, err := v.validate(); err != nil {
			return fmt.Errorf("variant %s: %w", v.Name, err)
		}
		if !variantName.MatchString(v.Name) || slices.Contains(s.VariantNames(), v.Name) {
			return fmt.Errorf("variant's name %s is no name, or stands there twice: write variants instead", v.Name)
		}
		s.Variants = append(s.Variants, v)
	}
	return nil
}

// valueName is how a value of a matrix shows in a variant's name: tw_reuse_1,
// close_client; the name of a link says enough alone.
func valueName(key, value string) string {
	clean := func(s string) string {
		return strings.Trim(strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' {
				return r
			}
			return '_'
		}, strings.ToLower(s)), "_")
	}
	if key == "link" {
		return clean(value)
	}
	return clean(strings.TrimPrefix(lab.ShortName(key), "tcp_")) + "_" + clean(value)
}

// assign sets a setting, by its path, or a sysctl, by its name.
func assign(v *Variant, key, value string) error {
	if known := settable(reflect.TypeFor[Settings](), ""); !slices.Contains(known, key) {
		full, err := lab.CheckSysctl(key, value)
		if err != nil {
			if !strings.HasPrefix(key, "net.") && !strings.HasPrefix(key, "tcp_") {
				return fmt.Errorf("no setting is called %s%s", key, suggest.For(key, known))
			}
			return err
		}
		if v.Sysctls == nil {
			v.Sysctls = map[string]string{}
		}
		v.Sysctls[full] = value
		return nil
	}
	node := &yaml.Node{Kind: yaml.ScalarNode, Value: value}
	for _, part := range slices.Backward(strings.Split(key, ".")) {
		node = &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Value: part}, node}}
	}
	if err := node.Load(&v.Settings, yaml.WithKnownFields()); err != nil {
		return fmt.Errorf("%s: %s", key, strings.TrimPrefix(located("", err, v.Settings).Error(), ": "))
	}
	return nil
}

var variantName = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)

func (s Settings) clone() Settings {
	s.Proxy = s.Proxy.clone()
	s.Sysctls, s.HoldSysctls = maps.Clone(s.Sysctls), maps.Clone(s.HoldSysctls)
	return s
}

// paths lists the settings that a variant's node names: "traffic.close".
func paths(n *yaml.Node, prefix string) []string {
	var out []string
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i].Value, n.Content[i+1]
		switch {
		case prefix == "" && key == "name":
		case value.Kind == yaml.MappingNode:
			out = append(out, paths(value, prefix+key+".")...)
		default:
			out = append(out, prefix+key)
		}
	}
	return out
}

// lineOf finds the line of a path in a variant's node or else in the file;
// with neither, the node's own line.
func lineOf(path string, n *yaml.Node, data []byte) int {
	var root yaml.Node
	_ = yaml.Load(data, &root) // read before without error
	if n != nil {
		if line := find(n, path); line > 0 {
			return line
		}
	}
	if len(root.Content) > 0 {
		if line := find(root.Content[0], path); line > 0 {
			return line
		}
	}
	if n != nil {
		return n.Line
	}
	return 1
}

// find returns the line of a path's key below n, 0 where it is not there.
func find(n *yaml.Node, path string) int {
	line := 0
	for part := range strings.SplitSeq(path, ".") {
		i := slices.IndexFunc(n.Content, func(c *yaml.Node) bool { return c.Value == part })
		if i < 0 || i+1 >= len(n.Content) {
			return 0
		}
		line, n = n.Content[i].Line, n.Content[i+1]
	}
	return line
}

var (
	unknownField = regexp.MustCompile(`^field (\S+) not found in type`)
	wrongType    = regexp.MustCompile("^cannot construct !!(\\w+) (?:`(.*)` )?into (\\S+)")
)

// located turns the YAML reader's errors into sentences with file and line.
func located(name string, err error, target any) error {
	var all *yaml.LoadErrors
	var one *yaml.LoadError
	switch {
	case errors.As(err, &all):
		var out []error
		for _, e := range all.Errors {
			out = append(out, sentence(name, e, target))
		}
		return errors.Join(out...)
	case errors.As(err, &one):
		return sentence(name, one, target)
	}
	return fmt.Errorf("%s: %w", name, err)
}

func sentence(name string, e *yaml.LoadError, target any) error {
	msg := e.Message
	if m := unknownField.FindStringSubmatch(msg); m != nil {
		msg = fmt.Sprintf("unknown key %q%s", m[1], suggest.For(m[1], keys(reflect.TypeOf(target))))
	} else if m := wrongType.FindStringSubmatch(msg); m != nil {
		want := "another kind of value"
		switch {
		case strings.HasPrefix(m[3], "int"):
			want = "a whole number"
		case m[3] == "bool":
			want = "true or false"
		case m[3] == "string":
			want = "a text"
		case strings.HasPrefix(m[3], "map"), strings.Contains(m[3], "."):
			want = "keys with values"
		}
		if m[2] == "" {
			m[2] = map[string]string{"seq": "a list", "map": "keys with values"}[m[1]]
		} else {
			m[2] = fmt.Sprintf("%q", m[2])
		}
		msg = fmt.Sprintf("%s stands where %s belongs", m[2], want)
	}
	if e.Mark.Line == 0 {
		return fmt.Errorf("%s: %s", name, strings.TrimPrefix(msg, "yaml: "))
	}
	return fmt.Errorf("%s:%d: %s", name, e.Mark.Line, msg)
}

// keys lists the yaml keys of a struct and of those in it.
func keys(t reflect.Type) []string {
	var out []string
	if t.Kind() != reflect.Struct {
		return nil
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name != "" && name != "-" {
			out = append(out, name)
		}
		out = append(out, keys(f.Type)...)
	}
	return out
}

// An Override is one --set or --sysctl: a value for all variants.
type Override struct{ Path, Value string }

// ParseOverride reads "traffic.rate=500/s".
func ParseOverride(s string) (Override, error) {
	path, value, ok := strings.Cut(s, "=")
	if !ok || path == "" {
		return Override{}, fmt.Errorf("--set %s: write path=value, such as traffic.rate=500/s", s)
	}
	known := settable(reflect.TypeFor[Settings](), "")
	if !slices.Contains(known, path) {
		if _, sysctl := lab.FindKnob(path); sysctl || strings.HasPrefix(path, "net.") {
			return Override{}, fmt.Errorf("--set %s: that is a sysctl; write --sysctl %s", s, s)
		}
		return Override{}, fmt.Errorf("--set %s: no setting is called %s%s", s, path, suggest.For(path, known))
	}
	return Override{path, value}, nil
}

// ParseSysctl reads "net.ipv4.tcp_tw_reuse=1"; tcp_tw_reuse is enough.
func ParseSysctl(s string) (Override, error) {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return Override{}, fmt.Errorf("--sysctl %s: write name=value, such as tcp_tw_reuse=1", s)
	}
	full, err := lab.CheckSysctl(strings.TrimSpace(name), value)
	if err != nil {
		return Override{}, fmt.Errorf("--sysctl %s: %w", s, err)
	}
	return Override{full, value}, nil
}

// settable lists the paths that --set takes.
func settable(t reflect.Type, prefix string) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("yaml")
		switch {
		case f.Type == reflect.TypeFor[Traffic]():
			out = append(out, settable(f.Type, prefix+name+".")...)
		case f.Anonymous:
			out = append(out, settable(f.Type, prefix)...)
		case f.Type.Kind() != reflect.Map:
			out = append(out, prefix+name)
		}
	}
	return out
}

// apply sets the value on one variant.
func (o Override) apply(v *Variant) error {
	flag := "--set"
	if strings.HasPrefix(o.Path, "net.") {
		flag = "--sysctl"
	}
	varied := slices.ContainsFunc(v.varies, func(p string) bool {
		p = strings.TrimPrefix(p, "sysctls.")
		if k, ok := lab.FindKnob(p); ok {
			p = k.Name
		}
		return p == o.Path
	})
	if varied {
		return fmt.Errorf("%s %s=%s: variant %s is about that very setting; choose variants with --variant, or copy the scenario "+
			"to a file and change it there", flag, o.Path, o.Value, v.Name)
	}
	if err := assign(v, o.Path, o.Value); err != nil {
		return fmt.Errorf("%s %s=%s: %w", flag, o.Path, o.Value, err)
	}
	return nil
}
