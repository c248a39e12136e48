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
)

// A file is a scenario as it is written.
type file struct {
	Scenario `yaml:",inline"`
	Variants []yaml.Node `yaml:"variants"`
	Expect   []yaml.Node `yaml:"expect"`
}

// overlay is a variant as it is written.
type overlay struct {
	Name     string `yaml:"name"`
	Settings `yaml:",inline"`
}

// Parse reads a scenario. name stands before the line in errors: "my.yaml:12".
// Every mistake that the reader of YAML finds is reported at once.
func Parse(name string, data []byte) (*Scenario, error) {
	f := file{Scenario: Scenario{Settings: defaults()}}
	if err := yaml.Load(data, &f, yaml.WithKnownFields()); err != nil {
		return nil, located(name, err, f)
	}
	s := &f.Scenario
	at := func(line int, err error) error { return fmt.Errorf("%s:%d: %w", name, line, err) }
	switch {
	case !variantName.MatchString(s.Name):
		return nil, fmt.Errorf("%s: name %q: write small letters, digits, - and _, starting with a letter", name, s.Name)
	case s.Question == "":
		return nil, fmt.Errorf("%s: question is missing: one line that says what the scenario asks", name)
	case len(f.Variants) == 0:
		return nil, fmt.Errorf("%s: variants are missing: at least one with a name", name)
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
		if slices.ContainsFunc(s.Variants, func(v Variant) bool { return v.Name == o.Name }) {
			return nil, at(n.Line, fmt.Errorf("variant %s stands here a second time", o.Name))
		}
		if path, err := o.validate(); err != nil {
			return nil, at(lineOf(path, n, data), fmt.Errorf("variant %s: %w", o.Name, err))
		}
		s.Variants = append(s.Variants, Variant{Name: o.Name, Settings: o.Settings, varies: paths(n, "")})
	}
	for _, n := range f.Expect {
		e, err := ParseExpectation(n.Value, s.Variants)
		if err != nil {
			return nil, at(n.Line, err)
		}
		s.Expect = append(s.Expect, e)
	}
	if err := checkAnswer(s.Answer, s.Variants); err != nil {
		return nil, at(lineOf("answer", nil, data), err)
	}
	return s, nil
}

var variantName = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)

func (s Settings) clone() Settings {
	s.Sysctls = maps.Clone(s.Sysctls)
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
		msg = fmt.Sprintf("unknown key %q%s", m[1], DidYouMean(m[1], keys(reflect.TypeOf(target))))
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

// An Override is one --set: a path and the value for all variants.
type Override struct{ Path, Value string }

// ParseOverride reads "traffic.rate=500/s".
func ParseOverride(s string) (Override, error) {
	path, value, ok := strings.Cut(s, "=")
	if !ok || path == "" {
		return Override{}, fmt.Errorf("--set %s: write path=value, such as traffic.rate=500/s", s)
	}
	known := settable(reflect.TypeFor[Settings](), "")
	if !slices.Contains(known, path) {
		return Override{}, fmt.Errorf("--set %s: no setting is called %s%s", s, path, DidYouMean(path, known))
	}
	return Override{path, value}, nil
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
		case f.Type.Kind() != reflect.Map:
			out = append(out, prefix+name)
		}
	}
	return out
}

// apply sets the value on one variant.
func (o Override) apply(v *Variant) error {
	if slices.Contains(v.varies, o.Path) {
		return fmt.Errorf("--set %s=%s: variant %s is about that very setting; choose variants with --variant, or copy the scenario "+
			"to a file and change it there", o.Path, o.Value, v.Name)
	}
	node := &yaml.Node{Kind: yaml.ScalarNode, Value: o.Value}
	parts := strings.Split(o.Path, ".")
	for _, key := range slices.Backward(parts) {
		node = &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Value: key}, node}}
	}
	if err := node.Load(&v.Settings, yaml.WithKnownFields()); err != nil {
		return errors.New(strings.TrimPrefix(located("", err, v.Settings).Error(), ": "))
	}
	if _, err := v.validate(); err != nil {
		return err
	}
	return nil
}

// DidYouMean ends an error about an unknown word with the nearest known one, or
// with all of them where none is near.
func DidYouMean(word string, known []string) string {
	best, least := "", 1+len(word)/2
	for _, k := range known {
		if d := distance(word, k); d < least {
			best, least = k, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("; did you mean %s?", best)
	case len(known) == 0:
		return ""
	case len(known) > 20:
		return ""
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(known)))
	return "; known: " + strings.Join(sorted, ", ")
}

// distance is the number of single letters to insert, delete or change
// (Levenshtein) on the way from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
