package server

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"sandglass"
)

type Binaries struct {
	Dir     string
	Major   int
	Version string
}

func Find(ctx context.Context, extra ...string) (map[int]Binaries, error) { return nil, nil }

func Pick(found map[int]Binaries, major int) (Binaries, error) { return Binaries{}, nil }

type InitOptions struct {
	Locale string
}

func InitDB(ctx context.Context, c Config, o InitOptions) error { return nil }

// PrepareRecovery makes a restored data folder ready for its first start.
func PrepareRecovery(c Config) error { return nil }

// ErrNotRunning is Adopt's answer when no server runs on the data folder.
var ErrNotRunning = errors.New("no server runs on the data folder")

type Postmaster struct{}

type StopMode int

const (
	Smart StopMode = iota
	Fast
	Immediate
)

func Start(ctx context.Context, c Config) (*Postmaster, error)         { return nil, nil }
func Adopt(ctx context.Context, c Config) (*Postmaster, error)         { return nil, nil }
func Discard(ctx context.Context, c Config) error                      { return nil }
func (p *Postmaster) PID() int                                         { return 0 }
func (p *Postmaster) Sealed() bool                                     { return false }
func (p *Postmaster) Ready(ctx context.Context) error                  { return nil }
func (p *Postmaster) Stop(ctx context.Context, m StopMode) error       { return nil }
func (p *Postmaster) Reload(ctx context.Context, c Config) error       { return nil }
func (p *Postmaster) Exited() <-chan struct{}                          { return nil }
func (p *Postmaster) Close()                                           {}
func (p *Postmaster) Replayed(segmentSize int64) (sandglass.LSN, bool) { return 0, false }

// RecoveryEnd is where recovery stopped.
type RecoveryEnd struct {
	Last     sandglass.LSN        // start of the last record replayed
	End      sandglass.LSN        // where the new timeline begins
	Timeline sandglass.TimelineID // the new timeline
}

// Recovered reads where the last recovery of the data folder stopped.
func Recovered(c Config) (RecoveryEnd, error) { return RecoveryEnd{}, nil }

func SingleUser(ctx context.Context, c Config, database string, sql ...string) (string, error) {
	return "", nil
}

// FirstContact makes Role in a cluster nobody can log in to.
func FirstContact(ctx context.Context, c Config) error { return nil }

func Connect(ctx context.Context, c Config, database string) (*pgx.Conn, error) { return nil, nil }

// Fence closes the running server to everybody but Role, over its private socket.
func (p *Postmaster) Fence(ctx context.Context) error   { return nil }
func (p *Postmaster) Unfence(ctx context.Context) error { return nil }

// Recovery is what RecoverySettings needs to know.
type Recovery struct {
	Range          sandglass.Range
	Minimums       sandglass.Parameters // of the image; the range's are added
	RestoreCommand string               // walserve.RestoreCommand
	Preload        []string             // libraries that replay needs
	MaxSlots       int                  // production's max_replication_slots (and origins), 0: not known
}

func RecoverySettings(major int, r Recovery) map[string]string { return nil }

// StagingSettings are of the sealed server after its promotion.
func StagingSettings(major int, min sandglass.Parameters, preload []string) map[string]string {
	return nil
}
func SandboxSettings(major int, s sandglass.Server, min sandglass.Parameters) (map[string]string, error) {
	return nil, nil
}

// MetaSettings are of the private metadata cluster.
func MetaSettings(major int) map[string]string { return nil }

// CheckSeal tries the seal for real.
func CheckSeal(ctx context.Context, o Owner, helper string) error { return nil }

// SealMain is the body of the hidden command seal-exec.
func SealMain(args []string) int { return 0 }
