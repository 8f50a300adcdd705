package sandglass

import (
	"fmt"
	"regexp"
	"time"
)

// Kind is what an environment is for. A production is only ever read.
type Kind string

// The kinds.
const (
	Production Kind = "production"
	Sandbox    Kind = "sandbox"
)

// Defaults of an environment.
const (
	DefaultRetentionProduction = 28 * 24 * time.Hour
	DefaultRetentionSandbox    = 7 * 24 * time.Hour
	DefaultKeep                = 7 * 24 * time.Hour // kept states, for undo
	DefaultImageEvery          = 24 * time.Hour
	DefaultImageAfterWAL       = 64 << 30 // bytes
	DefaultCarryBudget         = 10 * time.Second
)

// Environment is the declaration of a named installation of an application, as `sandglass
// apply` takes it. It lives in one PostgreSQL cluster.
type Environment struct {
	Name     string            `json:"name" yaml:"name"`
	Kind     Kind              `json:"kind" yaml:"kind" enum:"production,sandbox"`
	Tenant   string            `json:"tenant,omitempty" yaml:"tenant"`
	Region   string            `json:"region,omitempty" yaml:"region"`
	Hosting  string            `json:"hosting,omitempty" yaml:"hosting"`
	Versions map[string]string `json:"versions,omitempty" yaml:"versions"`
	// Zone is the IANA zone in which people of this environment name times; default UTC.
	Zone string `json:"zone,omitempty" yaml:"zone"`
	// Databases gives the database of each role (business, reporting, ...). In a restore, a
	// source database whose role the target does not name is dropped. Empty: all databases
	// keep their names.
	Databases map[string]string `json:"databases,omitempty" yaml:"databases"`
	Packs     []string          `json:"packs,omitempty" yaml:"packs"`
	// Retention is how long moments can be restored.
	Retention Duration `json:"retention,omitempty" yaml:"retention"`
	// Accept lists the codes of warnings and waivable refusals that are accepted beforehand.
	Accept []Code `json:"accept,omitempty" yaml:"accept"`
	// Hosts are names and addresses by which production is known, besides that of recording.connection. None
	// of them is left in a copy (prove.leak).
	Hosts []string `json:"hosts,omitempty" yaml:"hosts"`

	// Recording is how the environment is recorded: always for a production, at will for a sandbox.
	Recording *Recording `json:"recording,omitempty" yaml:"recording"`
	// Server is how the sandbox's PostgreSQL is run; of sandboxes only.
	Server *Server `json:"server,omitempty" yaml:"server"`
}

// Recording declares how an environment is recorded.
type Recording struct {
	// Connection is a libpq connection string or URL of a role with REPLICATION; of productions only.
	Connection string `json:"connection,omitempty" yaml:"connection"`
	// PasswordFile holds the role's password alone, readable by its owner only.
	PasswordFile string `json:"password_file,omitempty" yaml:"password_file"`
	// Slot is the replication slot's name; default "sandglass_" and the environment's name.
	Slot string `json:"slot,omitempty" yaml:"slot"`
	// ImageEvery and ImageAfterWAL say when the next image is taken: after so much time or WAL, whichever is first.
	ImageEvery    Duration `json:"image_every,omitempty" yaml:"image_every"`
	ImageAfterWAL Bytes    `json:"image_after_wal,omitempty" yaml:"image_after_wal"`
	// MaxRate limits an image's read rate, bytes a second; 0 means the default of 64 MiB/s, -1 unlimited.
	MaxRate Bytes `json:"max_rate,omitempty" yaml:"max_rate"`
	// FastCheckpoint asks production for an immediate checkpoint when an image begins.
	FastCheckpoint bool `json:"fast_checkpoint,omitempty" yaml:"fast_checkpoint"`
	// MaxSlotWAL is our own cap: with more WAL than this kept back on production, the slot is given up. 0: production's own cap alone.
	MaxSlotWAL Bytes `json:"max_slot_wal,omitempty" yaml:"max_slot_wal"`
}

// Server declares how a sandbox's PostgreSQL is run.
type Server struct {
	Listen string `json:"listen,omitempty" yaml:"listen"` // listen_addresses; default "localhost"
	Port   int    `json:"port" yaml:"port"`
	// Settings are the sandbox's own PostgreSQL settings; those Sandglass needs for itself can't be set.
	Settings map[string]string `json:"settings,omitempty" yaml:"settings"`
	// HBA are the lines of its pg_hba.conf; default: every role over TCP from the same host by scram-sha-256.
	HBA []string `json:"hba,omitempty" yaml:"hba"`
	// Source is the environment it is restored from unless another is named.
	Source string `json:"source,omitempty" yaml:"source"`
	// Keep is how long the state before a restore is kept for undo.
	Keep Duration `json:"keep,omitempty" yaml:"keep"`
	// Release is "auto" (open to all at the cutover, the default) or "manual" (open to the
	// administrator only until `sandglass release`).
	Release string `json:"release,omitempty" yaml:"release" enum:"auto,manual,"`
	// Seal is "namespaces" (the default) or "config-only", accepted where namespaces can't be had.
	Seal string `json:"seal,omitempty" yaml:"seal" enum:"namespaces,config-only,"`
	// Administrator is the sandbox's role that may connect before release.
	Administrator string `json:"administrator,omitempty" yaml:"administrator"`
	// Rename gives source databases another name in the sandbox: source name to sandbox name.
	Rename map[string]string `json:"rename,omitempty" yaml:"rename"`
	// RolesMap makes a target role a member of production roles: target role to production roles.
	RolesMap map[string][]string `json:"roles_map,omitempty" yaml:"roles_map"`
	// Health are queries, by database, that must answer before the sandbox opens.
	Health map[string][]string `json:"health,omitempty" yaml:"health"`
	// CarryBudget bounds step 8c.
	CarryBudget Duration `json:"carry_budget,omitempty" yaml:"carry_budget"`
	// Synchronize are the sandbox's own migrations, run on the copy before anybody sees it; nil: none.
	Synchronize *Synchronize `json:"synchronize,omitempty" yaml:"synchronize"`
}

var environmentName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// WithDefaults fills what the declaration leaves out.
func (e Environment) WithDefaults() Environment {
	if e.Zone == "" {
		e.Zone = "UTC"
	}
	if e.Retention == 0 {
		e.Retention = Duration(DefaultRetentionSandbox)
		if e.Kind == Production {
			e.Retention = Duration(DefaultRetentionProduction)
		}
	}
	if e.Recording != nil {
		r := *e.Recording
		if r.Slot == "" {
			r.Slot = SlotName(e.Name)
		}
		if r.ImageEvery == 0 {
			r.ImageEvery = Duration(DefaultImageEvery)
		}
		if r.ImageAfterWAL == 0 {
			r.ImageAfterWAL = DefaultImageAfterWAL
		}
		if r.MaxRate == 0 {
			r.MaxRate = 64 << 20
		}
		e.Recording = &r
	}
	if e.Server != nil {
		s := *e.Server
		if s.Listen == "" {
			s.Listen = "localhost"
		}
		if s.Keep == 0 {
			s.Keep = Duration(DefaultKeep)
		}
		if s.Release == "" {
			s.Release = "auto"
		}
		if s.Seal == "" {
			s.Seal = "namespaces"
		}
		if s.CarryBudget == 0 {
			s.CarryBudget = Duration(DefaultCarryBudget)
		}
		if s.Synchronize != nil {
			s.Synchronize = s.Synchronize.withDefaults()
		}
		e.Server = &s
	}
	return e
}

// SlotName is the default replication slot of an environment (slot names allow no dash).
func SlotName(environment string) string {
	b := []byte("sandglass_" + environment)
	for i, c := range b {
		if c == '-' {
			b[i] = '_'
		}
	}
	return string(b)
}

// Validate says what is wrong with the declaration, as an Error of CodeConfig.
func (e Environment) Validate() error {
	bad := func(format string, a ...any) error {
		return &Error{Code: CodeConfig, Op: "validate environment", Message: fmt.Sprintf("Environment %q: ", e.Name) + fmt.Sprintf(format, a...),
			Remedy: "Correct the declaration and apply it again."}
	}
	if !environmentName.MatchString(e.Name) {
		return bad("a name is a lower-case letter, then up to 31 letters, digits or dashes.")
	}
	if _, err := time.LoadLocation(e.Zone); err != nil {
		return bad("zone %q is not known; use an IANA name such as Europe/Vienna.", e.Zone)
	}
	if e.Retention < 0 {
		return bad("retention can't be negative.")
	}
	switch e.Kind {
	case Production:
		if e.Server != nil {
			return bad("a production has no server section: Sandglass never runs or changes one.")
		}
		if e.Recording == nil || e.Recording.Connection == "" {
			return bad("a production needs recording.connection.")
		}
	case Sandbox:
		if e.Server == nil {
			return bad("a sandbox needs a server section with a port.")
		}
		if e.Server.Port < 1 || e.Server.Port > 65535 {
			return bad("server.port must be between 1 and 65535.")
		}
		if e.Server.Release != "auto" && e.Server.Release != "manual" && e.Server.Release != "" {
			return bad("server.release is auto or manual.")
		}
		if e.Server.Release == "manual" && e.Server.Administrator == "" {
			return bad("server.release: manual needs server.administrator, who may connect before the release.")
		}
		if e.Server.Seal != "namespaces" && e.Server.Seal != "config-only" && e.Server.Seal != "" {
			return bad("server.seal is namespaces or config-only.")
		}
		if s := e.Server.Synchronize; s != nil {
			if wrong := s.wrong(e.Databases); wrong != "" {
				return bad("%s", wrong)
			}
		}
		if e.Recording != nil && e.Recording.Connection != "" {
			return bad("a sandbox's recording takes no connection: Sandglass runs it and knows the way in.")
		}
	default:
		return bad("kind is production or sandbox.")
	}
	return nil
}
