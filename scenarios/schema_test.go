package scenarios

import (
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/require"
	yaml "go.yaml.in/yaml/v4"

	"github.com/twlab/twlab/lab"
)

var update = flag.Bool("update", false, "write schema.json anew")

// The schema is the types' own, with their fields' comments.
func TestSchemaIsThatOfTheCode(t *testing.T) {
	g := generator{docs: comments(t, "stdlib.go", "scenario.go", "parse.go")}
	s := g.object(reflect.TypeFor[file]())
	s.Schema = "https://json-schema.org/draft/2020-12/schema"
	s.Title = "twlab scenario"
	s.Required = []string{"name", "question"}
	full := g.object(reflect.TypeFor[file]())
	delete(full.Properties, "full")
	delete(full.Properties, "name")
	full.Description = g.docs["file.Full"]
	s.Properties["full"] = full
	b, err := json.MarshalIndent(s, "", "  ")
	require.NoError(t, err)
	b = append(b, '\n')
	if *update {
		require.NoError(t, os.WriteFile("schema.json", b, 0o644))
		return
	}
	require.Equal(t, string(b), string(Schema), "go test ./scenarios -run Schema -update writes it anew")

	// Every built-in scenario is as the schema says; a slip is not.
	var parsed jsonschema.Schema
	require.NoError(t, json.Unmarshal(Schema, &parsed))
	r, err := parsed.Resolve(nil)
	require.NoError(t, err)
	for _, name := range Names() {
		text, err := library.ReadFile("library/" + name + ".yaml")
		require.NoError(t, err)
		var doc any
		require.NoError(t, yaml.Load(text, &doc))
		require.NoError(t, r.Validate(doc), name)
	}
	for _, wrong := range []string{
		"name: x\nquestion: q\ntraffik: {}\n", "name: x\nquestion: q\ntraffic: {close: nobody}\n", "name: x\n", "name: x\nquestion: q\nlink: wire\n",
		"name: x\nquestion: q\nvariants: [{nam: a}]\n", "name: x\nquestion: q\nmatrix: {tcp_tw_reuse: 1}\n",
	} {
		var doc any
		require.NoError(t, yaml.Load([]byte(wrong), &doc))
		require.Error(t, r.Validate(doc), wrong)
	}
}

// comments reads the comments of struct fields: "Traffic.Rate".
func comments(t *testing.T, files ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		require.NoError(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if st, ok := spec.Type.(*ast.StructType); ok {
				for _, field := range st.Fields.List {
					text := field.Doc.Text()
					if text == "" {
						text = field.Comment.Text()
					}
					for _, id := range field.Names {
						out[spec.Name.Name+"."+id.Name] = strings.Join(strings.Fields(text), " ")
					}
				}
			}
			return true
		})
	}
	return out
}

type generator struct{ docs map[string]string }

func (g generator) object(t reflect.Type) *jsonschema.Schema {
	s := &jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{}, AdditionalProperties: &jsonschema.Schema{Not: &jsonschema.Schema{}}}
	g.fields(t, s)
	return s
}

func (g generator) fields(t reflect.Type, s *jsonschema.Schema) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case options == "inline":
			g.fields(f.Type, s)
			continue
		case name == "" || name == "-":
			continue
		}
		p := g.value(name, f.Type)
		p.Description = g.docs[t.Name()+"."+f.Name]
		s.Properties[name] = p
		s.PropertyOrder = append(s.PropertyOrder, name)
	}
}

// value is the schema of a field; those that YAML reads as nodes go by name.
func (g generator) value(name string, t reflect.Type) *jsonschema.Schema {
	plain := func(types ...string) *jsonschema.Schema { return &jsonschema.Schema{Types: types} }
	list := func(of *jsonschema.Schema) *jsonschema.Schema { return &jsonschema.Schema{Type: "array", Items: of} }
	enum := func(values ...any) *jsonschema.Schema { return &jsonschema.Schema{Type: "string", Enum: values} }
	switch name {
	case "variants":
		v := g.object(reflect.TypeFor[overlay]())
		v.Required = []string{"name"}
		return list(v)
	case "matrix":
		return &jsonschema.Schema{Type: "object", AdditionalProperties: list(plain("string", "number", "boolean"))}
	case "expect":
		return list(plain("string", "object"))
	case "full":
		return &jsonschema.Schema{Type: "object"}
	}
	switch t {
	case reflect.TypeFor[Rate](), reflect.TypeFor[Destinations]():
		return plain("string", "number")
	case reflect.TypeFor[Duration](), reflect.TypeFor[Population]():
		return plain("string")
	case reflect.TypeFor[Close]():
		return enum(anys(closings)...)
	case reflect.TypeFor[Engine]():
		return enum(anys(engines)...)
	case reflect.TypeFor[Protocol]():
		return enum(anys(protocols)...)
	case reflect.TypeFor[Method]():
		return enum(anys(methods)...)
	case reflect.TypeFor[Reading]():
		return enum(anys(readings)...)
	case reflect.TypeFor[Drain]():
		return enum(anys(drains)...)
	case reflect.TypeFor[Listening]():
		return enum(string(ListenReusing), string(ListenPlain))
	case reflect.TypeFor[Bytes]():
		return plain("string", "integer")
	case reflect.TypeFor[Bind]():
		return enum(string(BindLate), string(BindEarly))
	case reflect.TypeFor[lab.Link]():
		return enum(anys(lab.Links)...)
	}
	switch t.Kind() {
	case reflect.Struct:
		return g.object(t)
	case reflect.Map: // sysctls
		s := &jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{}, AdditionalProperties: plain("string", "number")}
		for _, k := range lab.Knobs {
			if k.Scope == lab.StackScope {
				p := plain("string", "number")
				p.Description = k.Doc
				s.Properties[lab.ShortName(k.Name)] = p
				s.PropertyOrder = append(s.PropertyOrder, lab.ShortName(k.Name))
			}
		}
		return s
	case reflect.Slice:
		return list(g.value("", t.Elem()))
	case reflect.Bool:
		return &jsonschema.Schema{Type: "boolean"}
	case reflect.String:
		return &jsonschema.Schema{Type: "string"}
	}
	return &jsonschema.Schema{Type: "integer"}
}

func anys[T ~string](list []T) []any {
	var out []any
	for _, v := range list {
		out = append(out, string(v))
	}
	return out
}
