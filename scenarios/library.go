package scenarios

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/twlab/twlab/internal/suggest"
)

//go:embed library/*.yaml
var library embed.FS

// Names lists the built-in scenarios.
func Names() []string {
	files, err := fs.Glob(library, "library/*.yaml")
	if err != nil {
		panic(err) // the pattern is constant
	}
	var out []string
	for _, f := range files {
		out = append(out, strings.TrimSuffix(path.Base(f), ".yaml"))
	}
	return out
}

// Find returns a built-in scenario, or reads the file of that name: a name
// with a dot or a slash in it is a file's. full asks for the long form.
func Find(name string, full bool) (*Scenario, error) {
	if strings.ContainsAny(name, "./") {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("scenario file: %w (twlab list shows the built-in scenarios)", err)
		}
		return Parse(name, data, full)
	}
	data, err := library.ReadFile("library/" + name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("no scenario is called %s%s (twlab list shows all; a file's name needs its ending)", name, suggest.For(name, Names()))
	}
	return Parse(name+".yaml", data, full)
}
