// Package arch holds no code: only the test that keeps the tree true.
package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/twlab/twlab/"

// floors is the house: a package imports lower floors only, never its own.
// Test files are free. ARCHITECTURE.md says the same in prose.
var floors = map[string]int{
	"cmd/twlab":           7,
	"internal/role":       5,
	"internal/conduct":    5,
	"results/compare":     5,
	"results/report":      6,
	"results":             4,
	"measure/twtest":      3,
	"lab/labtest":         3,
	"scenarios/forecast":  3,
	"scenarios":           2,
	"lab/netns":           2,
	"measure/procnet":     2,
	"measure/sockdiag":    2,
	"measure/trace":       2,
	"client/raw":          2,
	"client/stdlib":       2,
	"server/raw":          2,
	"server/stdlib":       2,
	"scenarios/nginxconf": 1,
	"client":              1,
	"server":              1,
	"lab":                 1,
	"measure":             1,
	"results/stats":       1,
	"results/metric":      0,
	"internal/conns":      0,
	"internal/wire":       0,
	"internal/sock":       0,
	"internal/pace":       0,
	"internal/suggest":    0,
	"internal/arch":       0,
}

// It reads the files itself: asking `go list` gets stale answers from the test
// cache.
func TestFloorsAndPackageDocs(t *testing.T) {
	root := filepath.Join("..", "..")
	documented := map[string]bool{}
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "twlab-runs") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		pkg := path.Dir(name)
		floor, known := floors[pkg]
		if !known {
			t.Errorf("%s: package %s stands on no floor; add it to the list and to ARCHITECTURE.md", name, pkg)
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, name), nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		if f.Doc != nil {
			documented[pkg] = true
		}
		if strings.HasSuffix(name, "_test.go") {
			return nil
		}
		for _, imp := range f.Imports {
			p, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			below, ours := strings.CutPrefix(p, module)
			if !ours {
				continue
			}
			if theirs, known := floors[below]; !known || theirs >= floor {
				t.Errorf("%s (floor %d) imports %s (floor %d): only lower floors may be imported", name, floor, below, theirs)
			}
		}
		return nil
	})
	require.NoError(t, err)
	for pkg := range floors {
		require.DirExists(t, filepath.Join(root, filepath.FromSlash(pkg)))
		require.True(t, documented[pkg], "package %s has no package comment", pkg)
	}
}
