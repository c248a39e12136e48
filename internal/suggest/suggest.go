// Package suggest finds the known word that an unknown one was meant to be.
package suggest

import (
	"fmt"
	"slices"
	"strings"
)

// For ends an error about an unknown word with the nearest known one, or
// with all of them where none is near.
func For(word string, known []string) string {
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
