// Package labtest gives tests a TCP stack of their own without privileges: the
// test binary runs itself again in a fresh user and network namespace.
//
//	func TestMain(m *testing.M) { labtest.Main(m) }
//
//	func TestSomething(t *testing.T) {
//		labtest.Require(t, "netns")
//		...
//
// A test that cannot run says why and is skipped, unless the environment's
// TWLAB_REQUIRE names the missing ability: then it fails, so that CI cannot
// turn green by skipping.
package labtest

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Skip skips the test for want of an ability, or fails it where TWLAB_REQUIRE
// names that.
func Skip(t testing.TB, ability, why string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("TWLAB_REQUIRE"), ","), ability) {
		t.Fatalf("%s is required here and missing: %s", ability, why)
	}
	t.Skipf("needs %s: %s", ability, why)
}
