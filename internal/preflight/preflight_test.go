package preflight_test

import (
	"errors"
	"strings"
	"testing"

	"sandglass"
	"sandglass/internal/preflight"
)

// good is a restore that nothing speaks against.
func good() preflight.Facts {
	return preflight.Facts{
		Target: sandglass.Environment{Name: "uat", Kind: sandglass.Sandbox, Server: &sandglass.Server{Port: 6543}},
		Source: sandglass.Environment{Name: "prod", Kind: sandglass.Production},
		Major:  15, Majors: []int{15, 16},
		FreeBytes: 100 << 30, NeededBytes: 4 << 30,
		SocketPath: "/var/lib/sandglass/volumes/abcdefgh/run/.s.PGSQL.6543",
		Running:    true,
		Left:       []string{"erp"},
	}
}

func TestGoodHasNoStop(t *testing.T) {
	for _, f := range preflight.Check(good()) {
		if f.Level != sandglass.OK {
			t.Errorf("finding %+v, want only ok", f)
		}
	}
}

func TestChecks(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*preflight.Facts)
		code   sandglass.Code
		level  sandglass.Level
		says   string
	}{
		"live production": {func(f *preflight.Facts) { f.RecordedHere = "prod" }, sandglass.CodeEnvironmentLive, sandglass.Stop, "never a target"},
		"wrong major":     {func(f *preflight.Facts) { f.Majors = []int{16} }, sandglass.CodeBinariesMissing, sandglass.Stop, "PostgreSQL 15"},
		"no namespaces":   {func(f *preflight.Facts) { f.SealError = errors.New("no") }, sandglass.CodeSealNamespace, sandglass.Stop, "could not be sealed"},
		"config-only": {func(f *preflight.Facts) { f.SealError = errors.New("no"); f.Target.Server.Seal = "config-only" },
			sandglass.CodeSealNamespace, sandglass.Warning, "by configuration only"},
		"no user ID": {func(f *preflight.Facts) {
			f.UIDError = &sandglass.Error{Code: "volume.no_uid", Message: "All of 5-6 are taken.", Remedy: "Drop some."}
		}, "volume.no_uid", sandglass.Stop, "5-6 are taken"},
		"disk full":      {func(f *preflight.Facts) { f.FreeBytes = 1 << 30; f.KeptStates, f.KeptBytes = 2, 8<<30 }, preflight.CodeDiskSpace, sandglass.Stop, "2 kept states hold 8 GiB"},
		"disk nearly":    {func(f *preflight.Facts) { f.FreeBytes = f.NeededBytes + 1 }, preflight.CodeDiskSpace, sandglass.Warning, "of the 4 GiB"},
		"long path":      {func(f *preflight.Facts) { f.SocketPath = strings.Repeat("x", 108) }, preflight.CodePathTooLong, sandglass.Stop, "108 bytes"},
		"longest path":   {func(f *preflight.Facts) { f.SocketPath = strings.Repeat("x", 107) }, preflight.CodePathTooLong, "", ""},
		"port":           {func(f *preflight.Facts) { f.PortHolder = "process 17 (nginx)" }, preflight.CodePortTaken, sandglass.Stop, "nginx"},
		"preload":        {func(f *preflight.Facts) { f.MissingLibraries = []string{"timescaledb"} }, preflight.CodePreload, sandglass.Stop, "timescaledb"},
		"reserved":       {func(f *preflight.Facts) { f.ReservedSettings = []string{"archive_mode"} }, preflight.CodeSetting, sandglass.Stop, "archive_mode"},
		"nothing left":   {func(f *preflight.Facts) { f.Dropped, f.Left = []string{"erp"}, nil }, preflight.CodeNoDatabases, sandglass.Stop, "nothing would be left"},
		"made later":     {func(f *preflight.Facts) { f.Later = []string{"hr"} }, preflight.CodeLaterDatabases, sandglass.Warning, "not there when image"},
		"some dropped":   {func(f *preflight.Facts) { f.Dropped = []string{"hr"} }, preflight.CodeDropDatabases, sandglass.Warning, "hr"},
		"clients":        {func(f *preflight.Facts) { f.Clients = []string{"psql", "odoo"} }, preflight.CodeClients, sandglass.Warning, "psql, odoo"},
		"down":           {func(f *preflight.Facts) { f.Running = false }, preflight.CodeDown, sandglass.Stop, "not running"},
		"down, accepted": {func(f *preflight.Facts) { f.Running = false; f.Accepted = []sandglass.Code{preflight.CodeDown} }, preflight.CodeDown, sandglass.Warning, "not running"},
		"wrong pages":    {func(f *preflight.Facts) { f.Image.WrongPages = true }, preflight.CodePages, sandglass.Warning, "wrong checksums"},
		"first":          {func(f *preflight.Facts) { f.Running, f.Empty = false, true }, preflight.CodeFirstRestore, sandglass.OK, "first restore"},
	} {
		t.Run(name, func(t *testing.T) {
			f := good()
			c.change(&f)
			for _, got := range preflight.Check(f) {
				if got.Code != c.code {
					continue
				}
				if got.Level != c.level || !strings.Contains(got.Message, c.says) {
					t.Errorf("got %s %q, want %s with %q", got.Level, got.Message, c.level, c.says)
				}
				if got.Level == sandglass.Stop && got.Remedy == "" {
					t.Errorf("stop %s has no remedy", got.Code)
				}
				return
			}
			if c.level != "" {
				t.Errorf("no finding %s", c.code)
			}
		})
	}
}

func TestStopsComeFirstAndAcceptedIsMarked(t *testing.T) {
	f := good()
	f.PortHolder, f.Clients = "nginx", []string{"psql"}
	f.Target.Accept = []sandglass.Code{preflight.CodeClients}
	got := preflight.Check(f)
	if got[0].Level != sandglass.Stop || got[1].Level != sandglass.Warning || !got[1].Accepted {
		t.Errorf("got %+v, want the stop, then the accepted warning", got[:2])
	}
}
