package gateway

import (
	"slices"
	"strings"
)

// Nearest gives "; did you mean a, b?" of the names that are close to what was asked for,
// empty if none is.
func Nearest(asked string, names []string) string {
	type near struct {
		name string
		d    int
	}
	var all []near
	a := strings.ToLower(clip(asked))
	for _, n := range names {
		d := distance(a, strings.ToLower(clip(n)))
		if d <= max(2, len(a)/3) || a != "" && strings.Contains(strings.ToLower(n), a) {
			all = append(all, near{n, d})
		}
	}
	slices.SortFunc(all, func(x, y near) int {
		if x.d != y.d {
			return x.d - y.d
		}
		return strings.Compare(x.name, y.name)
	})
	var out []string
	for _, n := range all {
		if !slices.Contains(out, n.name) && len(out) < 3 {
			out = append(out, n.name)
		}
	}
	if len(out) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(out, ", ") + "?"
}

func clip(s string) string { return s[:min(len(s), 64)] }

// distance is the edit distance of two short texts (Levenshtein), in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
