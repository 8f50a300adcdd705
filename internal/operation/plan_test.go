package operation

import (
	"slices"
	"testing"

	"sandglass"
)

// What the image lacks and may come with the WAL is what the target has a role for, by production's name.
func TestLaterDatabases(t *testing.T) {
	for _, tt := range []struct {
		source, target, rename map[string]string
		want                   []string
	}{
		{map[string]string{"business": "erp", "reporting": "dwh"}, map[string]string{"business": "erp_uat"}, nil, []string{"erp"}},
		{map[string]string{"business": "erp", "reporting": "dwh"}, map[string]string{"business": "erp", "reporting": "dwh_uat"}, nil, []string{"dwh", "erp"}},
		{nil, map[string]string{"business": "erp_uat", "reporting": "there"}, map[string]string{"erp": "erp_uat"}, []string{"erp"}},
		{nil, map[string]string{"business": "erp"}, nil, []string{"erp"}},
		{map[string]string{"other": "x"}, map[string]string{"business": "erp"}, nil, nil},
	} {
		target := sandglass.Environment{Databases: tt.target, Server: &sandglass.Server{Rename: tt.rename}}
		if got := laterDatabases(sandglass.Environment{Databases: tt.source}, target, []string{"postgres", "there"}); !slices.Equal(got, tt.want) {
			t.Errorf("%v, %v, %v: %v, want %v", tt.source, tt.target, tt.rename, got, tt.want)
		}
	}
}
