package control

import (
	"testing"

	"sandglass"
)

func TestWithoutPassword(t *testing.T) {
	for in, want := range map[string]string{
		"host=db password=ab&cd user=u":                 "host=db password=******** user=u",
		`host=db password=a\ b user=u`:                  "host=db password=******** user=u",
		`host=db password = 'it\'s &c' sslpassword=x`:   "host=db password = ******** sslpassword=********",
		"postgres://u:p%40w@db/x?sslpassword=s&port=1":  "postgres://u:********@db/x?sslpassword=********&port=1",
		"postgresql://u@db/x?password=p&sslmode=prefer": "postgresql://u@db/x?password=********&sslmode=prefer",
		"host=db user=u passfile=/etc/password":         "host=db user=u passfile=/etc/password",
	} {
		if got := withoutPassword(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestFirstDatabase(t *testing.T) {
	for want, roles := range map[string]map[string]string{"erp": {"archive": "old", "business": "erp"}, "old": {"archive": "old", "reporting": "dwh"}, "postgres": nil} {
		if got := firstDatabase(sandglass.Environment{Databases: roles}); got != want {
			t.Errorf("%v: %s, want %s", roles, got, want)
		}
	}
}
