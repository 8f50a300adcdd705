// Package preflight answers, before anything changes, whether a restore into a sandbox can
// go well. Its checks are pure: they look at Facts that the caller gathered, all of them
// answer at once, and a check that fails says what to do about it.
package preflight

import (
	"fmt"
	"slices"
	"strings"

	"sandglass"
)

// Codes of findings that only preflight gives.
const (
	CodeDiskSpace      sandglass.Code = "preflight.disk_space"
	CodePortTaken      sandglass.Code = "preflight.port_taken"
	CodePathTooLong    sandglass.Code = "preflight.path_too_long"
	CodePreload        sandglass.Code = "preflight.preload_missing"
	CodeSetting        sandglass.Code = "preflight.setting_reserved"
	CodeTablespaces    sandglass.Code = "preflight.tablespaces_mapped"
	CodeDropDatabases  sandglass.Code = "preflight.databases_dropped"
	CodeNoDatabases    sandglass.Code = "preflight.no_database_left"
	CodeLaterDatabases sandglass.Code = "preflight.database_later"
	CodeClients        sandglass.Code = "preflight.clients_connected"
	CodeSameIdentifier sandglass.Code = "preflight.same_system_identifier"
	CodeSettings       sandglass.Code = "preflight.settings_not_taken"
	CodeFirstRestore   sandglass.Code = "preflight.first_restore"
	CodeDown           sandglass.Code = "preflight.target_down"
	CodePages          sandglass.Code = "preflight.page_checksums"
)

// MaxSocketPath is how long the path of a Unix socket may be on Linux (sun_path in unix(7), less its final zero).
const MaxSocketPath = 107

// Facts is what the checks look at.
type Facts struct {
	Target sandglass.Environment
	Source sandglass.Environment

	// Image is what the moment resolved to start from; zero when it did not resolve.
	Image sandglass.Image
	// Major is the PostgreSQL major of the image; 0 when the moment did not resolve.
	Major int
	// Majors are the PostgreSQL majors whose binaries are on this host.
	Majors []int
	// SealError is why a sealed server can't be had, nil when it can.
	SealError error
	// UIDError is why a volume can't have a user ID of its own, nil when it can or need not.
	UIDError error
	// FreeBytes is the free space where volumes lie; NeededBytes what this restore adds there.
	FreeBytes, NeededBytes int64
	// KeptStates and KeptBytes are the states already kept for undo on the same disk.
	KeptStates int
	KeptBytes  int64
	// SocketPath is the longest Unix socket path of the volume to be.
	SocketPath string

	// Accepted are the codes accepted beforehand.
	Accepted []sandglass.Code

	// Peek: there is no target; the copy is only read.
	Peek bool
	// Empty: nothing was restored into the target yet. Running: its server answers.
	Empty, Running bool
	// PortHolder says who listens on the target's port when it is not the target itself; "" for nobody.
	PortHolder string
	// Clients are the application names connected to the target now, without Sandglass's own.
	Clients []string
	// RecordedHere names the production whose recorder is connected to the target's server, or whose standby it is.
	RecordedHere string
	// SameIdentifier: the target's system identifier is the source's.
	SameIdentifier bool

	// MissingLibraries are libraries of the preload list that this host does not have.
	MissingLibraries []string
	// ReservedSettings are settings of the declaration that Sandglass keeps for itself.
	ReservedSettings []string
	// Dropped are source databases that no role of the target names; Left are those that stay.
	Dropped, Left []string
	// Later are source databases that the target needs and the image lacks: they may have been made since.
	Later []string
}

// Check answers every question about f, stops first, then warnings, then what is well.
func Check(f Facts) []sandglass.Finding {
	var out []sandglass.Finding
	f.Accepted = append(slices.Clone(f.Accepted), f.Target.Accept...)
	for _, check := range []func(Facts) (sandglass.Finding, bool){
		liveProduction, binaries, seal, userID, diskSpace, socketPath, port, preload, settings, databases, laterDatabases,
		pages, identifier, tablespaces, droppedDatabases, clients, targetDown, firstRestore, sourceSettings,
	} {
		if finding, applies := check(f); applies {
			finding.Accepted = finding.Level == sandglass.Warning && slices.Contains(f.Accepted, finding.Code)
			out = append(out, finding)
		}
	}
	weight := map[sandglass.Level]int{sandglass.Stop: 0, sandglass.Warning: 1, sandglass.OK: 2}
	slices.SortStableFunc(out, func(a, b sandglass.Finding) int { return weight[a.Level] - weight[b.Level] })
	return out
}

func stop(code sandglass.Code, remedy, format string, a ...any) (sandglass.Finding, bool) {
	return sandglass.Finding{Code: code, Level: sandglass.Stop, Message: fmt.Sprintf(format, a...), Remedy: remedy}, true
}

func warn(code sandglass.Code, remedy, format string, a ...any) (sandglass.Finding, bool) {
	return sandglass.Finding{Code: code, Level: sandglass.Warning, Message: fmt.Sprintf(format, a...), Remedy: remedy}, true
}

func ok(code sandglass.Code, format string, a ...any) (sandglass.Finding, bool) {
	return sandglass.Finding{Code: code, Level: sandglass.OK, Message: fmt.Sprintf(format, a...)}, true
}

func nothing() (sandglass.Finding, bool) { return sandglass.Finding{}, false }

func liveProduction(f Facts) (sandglass.Finding, bool) {
	return LiveProduction(f.Target.Name, f.RecordedHere)
}

// LiveProduction is the stop of a target whose server is, or follows, a recorded production; false when production is "".
func LiveProduction(target, production string) (sandglass.Finding, bool) {
	if production == "" {
		return nothing()
	}
	return stop(sandglass.CodeEnvironmentLive, "Point the sandbox at a server of its own.",
		"The server of %s is, or follows, the recorded production %s; a live production is never a target.", target, production)
}

func binaries(f Facts) (sandglass.Finding, bool) {
	major := f.Major
	if major == 0 || slices.Contains(f.Majors, major) {
		return nothing()
	}
	return stop(sandglass.CodeBinariesMissing, fmt.Sprintf("Install them, on Debian with: apt-get install postgresql-%d", major),
		"The image is of PostgreSQL %d, whose server binaries are not on this host.", major)
}

func seal(f Facts) (sandglass.Finding, bool) {
	if f.SealError == nil {
		return ok(sandglass.CodeSealNamespace, "Staging runs sealed, in network and mount namespaces of its own.")
	}
	if f.Target.Server != nil && f.Target.Server.Seal == "config-only" {
		return warn(sandglass.CodeSealNamespace, "Run `sandglass serve` as root, or allow unprivileged user namespaces.",
			"Namespaces can't be had on this host; staging of %s is sealed by configuration only, as its declaration accepts.", f.Target.Name)
	}
	return stop(sandglass.CodeSealNamespace, "Run `sandglass serve` as root or allow unprivileged user namespaces; or accept the risk with server.seal: config-only.",
		"Namespaces can't be had on this host, so a restored copy could not be sealed.")
}

func userID(f Facts) (sandglass.Finding, bool) {
	if f.UIDError == nil {
		return nothing()
	}
	e := sandglass.AsError(f.UIDError)
	return stop(e.Code, e.Remedy, "%s", e.Message)
}

func diskSpace(f Facts) (sandglass.Finding, bool) {
	if f.NeededBytes == 0 {
		return nothing()
	}
	need, free := sandglass.Bytes(f.NeededBytes), sandglass.Bytes(f.FreeBytes)
	kept := ""
	if f.KeptStates > 0 {
		kept = fmt.Sprintf(" %d kept states hold %s.", f.KeptStates, sandglass.Bytes(f.KeptBytes))
	}
	if f.NeededBytes > f.FreeBytes {
		return stop(CodeDiskSpace, "Free space, or drop kept states: sandglass volume ls, sandglass volume drop ID.",
			"The restore needs about %s and %s are free.%s", need, free, kept)
	}
	if f.NeededBytes > f.FreeBytes*9/10 {
		return warn(CodeDiskSpace, "Drop kept states that nobody needs: sandglass volume ls.",
			"The restore needs about %s of the %s that are free.%s", need, free, kept)
	}
	return ok(CodeDiskSpace, "The restore needs about %s; %s are free.%s", need, free, kept)
}

func socketPath(f Facts) (sandglass.Finding, bool) {
	if len(f.SocketPath) <= MaxSocketPath {
		return nothing()
	}
	return stop(CodePathTooLong, "Use a state folder with a shorter path.",
		"The Unix socket %s would have a path of %d bytes; Linux allows %d.", f.SocketPath, len(f.SocketPath), MaxSocketPath)
}

func port(f Facts) (sandglass.Finding, bool) {
	if f.PortHolder == "" {
		return nothing()
	}
	return stop(CodePortTaken, "Stop that server or give the sandbox another port.",
		"Port %d of %s is taken by %s.", f.Target.Server.Port, f.Target.Name, f.PortHolder)
}

func preload(f Facts) (sandglass.Finding, bool) {
	if len(f.MissingLibraries) == 0 {
		return nothing()
	}
	return stop(CodePreload, "Install the packages of these extensions for the same PostgreSQL major.",
		"The copy needs libraries that are not installed here: %s.", strings.Join(f.MissingLibraries, ", "))
}

func settings(f Facts) (sandglass.Finding, bool) {
	if len(f.ReservedSettings) == 0 {
		return nothing()
	}
	return stop(CodeSetting, "Take them out of server.settings and apply again.",
		"The declaration of %s sets what Sandglass keeps for itself: %s.", f.Target.Name, strings.Join(f.ReservedSettings, ", "))
}

func databases(f Facts) (sandglass.Finding, bool) {
	if len(f.Dropped) == 0 || len(f.Left) > 0 {
		return nothing()
	}
	return stop(CodeNoDatabases, "Give source and target the same database roles.",
		"No database of %s has a role that %s names; nothing would be left.", f.Source.Name, f.Target.Name)
}

func laterDatabases(f Facts) (sandglass.Finding, bool) {
	if len(f.Later) == 0 {
		return nothing()
	}
	return warn(CodeLaterDatabases, "Check the names in the declarations; or take an image first: sandglass record image "+f.Source.Name,
		"Databases that %s needs were not there when image %s was made: %s. If they are not there at the moment either, the restore ends before anything is changed.",
		f.Target.Name, f.Image.ID, strings.Join(f.Later, ", "))
}

func pages(f Facts) (sandglass.Finding, bool) {
	if !f.Image.WrongPages {
		return nothing()
	}
	return warn(CodePages, "Production's log names the files; mend them there, then take another image: sandglass record image "+f.Source.Name,
		"Pages of %s had wrong checksums when image %s was made, and are in the copy as they were.", f.Source.Name, f.Image.ID)
}

func identifier(f Facts) (sandglass.Finding, bool) {
	if !f.SameIdentifier {
		return nothing()
	}
	return ok(CodeSameIdentifier, "The sandbox has production's system identifier, as a physical copy does; its own history is kept apart.")
}

func tablespaces(f Facts) (sandglass.Finding, bool) {
	if len(f.Image.Tablespaces) == 0 {
		return nothing()
	}
	return ok(CodeTablespaces, "%d tablespaces are mapped into the volume.", len(f.Image.Tablespaces))
}

func droppedDatabases(f Facts) (sandglass.Finding, bool) {
	if len(f.Dropped) == 0 {
		return nothing()
	}
	return warn(CodeDropDatabases, "Give them a role in the target's declaration to keep them.",
		"Databases without a role in %s are dropped from the copy: %s.", f.Target.Name, strings.Join(f.Dropped, ", "))
}

func clients(f Facts) (sandglass.Finding, bool) {
	if len(f.Clients) == 0 {
		return nothing()
	}
	return warn(CodeClients, "Tell them; they are told on channel sandglass, and disconnected at the cutover.",
		"Connected to %s now: %s.", f.Target.Name, strings.Join(f.Clients, ", "))
}

func targetDown(f Facts) (sandglass.Finding, bool) {
	if f.Peek || f.Empty || f.Running {
		return nothing()
	}
	const sentence = "%s is not running; its roles and settings can't be read, so nobody of it could log in after the restore."
	if slices.Contains(f.Accepted, CodeDown) {
		return warn(CodeDown, "", sentence, f.Target.Name)
	}
	return stop(CodeDown, fmt.Sprintf("Start it first (sandglass env start %s), or accept the loss: --accept %s", f.Target.Name, CodeDown), sentence, f.Target.Name)
}

func firstRestore(f Facts) (sandglass.Finding, bool) {
	if !f.Empty {
		return nothing()
	}
	return ok(CodeFirstRestore, "%s is empty; this is its first restore, and an undo leaves it empty again.", f.Target.Name)
}

func sourceSettings(f Facts) (sandglass.Finding, bool) {
	if len(f.Image.Settings) == 0 {
		return nothing()
	}
	names := make([]string, 0, len(f.Image.Settings))
	for name := range f.Image.Settings {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) > 12 {
		names = append(names[:12], fmt.Sprintf("and %d more", len(names)-12))
	}
	return ok(CodeSettings, "Settings of %s that do not come along: %s.", f.Source.Name, strings.Join(names, ", "))
}
