// Doctor: what is wrong, or will be, with this installation.

package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sandglass"
	"sandglass/internal/server"
)

type doctor struct{ *Control }

// Doctor asks everything at once; each answer stands for itself.
func (c doctor) Doctor(ctx context.Context) ([]sandglass.Finding, error) {
	out := []sandglass.Finding{}
	ok := func(code sandglass.Code, format string, a ...any) {
		out = append(out, sandglass.Finding{Code: code, Level: sandglass.OK, Message: fmt.Sprintf(format, a...)})
	}
	bad := func(level sandglass.Level, code sandglass.Code, remedy, format string, a ...any) {
		out = append(out, sandglass.Finding{Code: code, Level: level, Message: fmt.Sprintf(format, a...), Remedy: remedy})
	}
	c.doctorHost(ctx, ok, bad)
	c.doctorRepository(ctx, ok, bad)
	environments, err := c.db.Environments(ctx)
	if err != nil {
		return out, err
	}
	for _, e := range environments {
		e.Declaration = e.Declaration.WithDefaults()
		s, err := c.status(ctx, e)
		if err != nil {
			return out, err
		}
		c.doctorEnvironment(s, e.Recording, ok, bad)
	}
	return out, nil
}

type (
	sayOK  func(code sandglass.Code, format string, a ...any)
	sayBad func(level sandglass.Level, code sandglass.Code, remedy, format string, a ...any)
)

func (c doctor) doctorHost(ctx context.Context, ok sayOK, bad sayBad) {
	found, err := server.Look(c.Binaries...).Find(ctx)
	var majors []string
	for major, b := range found {
		majors = append(majors, fmt.Sprintf("%d (%s)", major, b.Version))
	}
	slices.Sort(majors)
	switch {
	case err != nil || len(found) == 0:
		bad(sandglass.Stop, sandglass.CodeBinariesMissing, "apt-get install postgresql-15", "No PostgreSQL server binaries are on this host.")
	default:
		ok(sandglass.CodeBinariesMissing, "PostgreSQL %s.", strings.Join(majors, ", "))
	}
	if config, err := c.metadataConfig(ctx, c.host.Owner); c.MetadataURL == "" && err != nil {
		bad(sandglass.Stop, "metadata.binaries_missing", "Install the major the metadata cluster was made with before the next restart.", "The metadata cluster will not start again: %v.", err)
	} else if c.MetadataURL == "" {
		ok("metadata.binaries", "The metadata cluster is of PostgreSQL %d.", config.Binaries.Major)
	}
	if err := server.CheckSeal(ctx, c.host.Owner, c.Executable); err != nil {
		bad(sandglass.Stop, sandglass.CodeSealNamespace, "Run as root, or allow unprivileged user namespaces; else accept server.seal: config-only.", "Restored copies can't be sealed on this host: %v.", err)
	} else {
		ok(sandglass.CodeSealNamespace, "Restored copies can be sealed in namespaces.")
	}
	c.doctorUsers(ctx, ok, bad)
	free, err := c.host.Volumes.Free(ctx)
	switch {
	case err != nil:
		bad(sandglass.Warning, sandglass.CodeDiskFull, "Look at the state folder's file system.", "The free space for volumes can't be read: %v.", err)
	case free < 2<<30:
		bad(sandglass.Warning, sandglass.CodeDiskFull, "Free space, or drop kept states: sandglass volume ls.", "Only %s are free for volumes.", sandglass.Bytes(free))
	default:
		ok(sandglass.CodeDiskFull, "%s are free for volumes.", sandglass.Bytes(free))
	}
}

// doctorUsers says whose the volumes of this host are.
func (c doctor) doctorUsers(ctx context.Context, ok sayOK, bad sayBad) {
	own, err := c.host.OwnUIDs(ctx)
	volumes, errVolumes := c.db.Volumes(ctx, "")
	if sandglass.CodeOf(err) == sandglass.CodeSealNamespace {
		err = nil // doctorHost says so
	}
	if err = errors.Join(err, errVolumes); err != nil {
		bad(sandglass.Warning, codeUsers, "Look at the log of `sandglass serve`.", "It can't be told whose the volumes are: %v.", err)
		return
	}
	if !own {
		ok(codeUsers, "All servers run as the user %s; who may run programs on one can read the files of all.", c.host.Owner.Name)
		return
	}
	shared := 0
	for _, v := range volumes {
		if v.Host == c.Host && v.UID == 0 {
			shared++
		}
	}
	if shared > 0 {
		bad(sandglass.Warning, codeUsers, "Restore into those sandboxes again, and drop their kept states: sandglass volume ls.",
			"%d volumes were made when all belonged to the user %s; who may run programs on one of their servers can read the files of all of them.", shared, c.host.Owner.Name)
		return
	}
	ok(codeUsers, "Each volume belongs to an operating system user of its own (%s).", c.host.UIDs)
}

// codeUsers is about the operating system users that servers run as.
const codeUsers sandglass.Code = "volume.users"

func (c doctor) doctorRepository(ctx context.Context, ok sayOK, bad sayBad) {
	info, err := c.repositoryInfo(ctx)
	switch {
	case err != nil:
		said := sandglass.AsError(err)
		bad(sandglass.Stop, said.Code, said.Remedy, "The repository can't be read: %s", said.Message)
	case info.FreeBytes >= 0 && info.FreeBytes < 2<<30:
		bad(sandglass.Warning, sandglass.CodeRepositoryFull, "Free space, or prune: sandglass repo prune.", "Only %s are free for the repository.", sandglass.Bytes(info.FreeBytes))
	default:
		ok("repository.readable", "Repository %s holds %s in %d objects; %s are free.", info.Path, sandglass.Bytes(info.Bytes), info.Objects, sandglass.Bytes(info.FreeBytes))
	}
}

func (c doctor) doctorEnvironment(s sandglass.EnvironmentStatus, wished bool, ok sayOK, bad sayBad) {
	if s.Kind == sandglass.Sandbox && s.State == sandglass.SandboxDown {
		bad(sandglass.Stop, "environment.down", "Look at its log: "+s.Socket+"/../log; it is tried again every few seconds.", "%s should run and does not.", s.Name)
	}
	r := s.Recorder
	switch {
	case r == nil:
	case !wished:
		if s.Kind == sandglass.Production {
			bad(sandglass.Warning, "recorder.off", "sandglass record start "+s.Name, "%s is not being recorded.", s.Name)
		}
	case r.LastError != nil && r.State != sandglass.RecorderStreaming && r.State != sandglass.RecorderImaging:
		bad(sandglass.Stop, r.LastError.Code, r.LastError.Remedy, "%s is not being recorded: %s", s.Name, r.LastError.Message)
	case r.ServerLSN > r.DurableLSN+64<<20:
		bad(sandglass.Warning, "recorder.behind", "Look at the speed of the repository's disk and of the network.", "The recording of %s is %s behind.", s.Name, sandglass.Bytes(r.ServerLSN-r.DurableLSN))
	default:
		if d := time.Since(r.ServerTime); !r.ServerTime.IsZero() && (d > 30*time.Second || d < -30*time.Second) {
			bad(sandglass.Warning, "recorder.clock", "Synchronize the clocks; moments are judged by production's.", "The clock of %s differs from this host's by %s.", s.Name, d.Round(time.Second))
		}
		ok("recorder.streaming", "%s is being recorded up to %s. Before wal_level = minimal, a lower max_replication_slots or pg_upgrade, drop its slot: sandglass record stop %s, or without Sandglass, on production, SELECT pg_drop_replication_slot('%s').", s.Name, r.DurableLSN, s.Name, r.Slot)
	}
}
