package scenarios

import _ "embed"

// Schema is the JSON Schema of a scenario's file, for editors that complete
// and check YAML. A test generates it from the types and their comments, and
// keeps it equal to them.
//
//go:embed schema.json
var Schema []byte
