// User IDs that volumes have to themselves, so that a server can neither read nor signal what is another's.

package server

import (
	"fmt"
	"os/user"
	"strconv"
	"strings"
	"time"

	"sandglass"
)

// UIDs is a range of user IDs, each of which is a group ID too; the zero one is empty.
type UIDs struct{ First, Last int }

// DefaultUIDs are listed as unused in systemd's "Users, Groups, UIDs and GIDs on systemd Systems"
// (https://systemd.io/UIDS-GIDS/), right below those that it gives to dynamic users.
var DefaultUIDs = UIDs{60578, 61183}

// CodeNoUID is a volume for which no user ID is left.
const CodeNoUID sandglass.Code = "volume.no_uid"

// ParseUIDs reads "FIRST-LAST", or "none" for the empty range; "" is DefaultUIDs. The IDs of people's and the system's own
// accounts (below 1000, login.defs(5)), 65534 (nobody) and 65535 (no 16-bit ID, chown(2)) can't be in it.
func ParseUIDs(text string) (UIDs, error) {
	switch text {
	case "":
		return DefaultUIDs, nil
	case "none":
		return UIDs{}, nil
	}
	first, last, _ := strings.Cut(text, "-")
	a, err1 := strconv.ParseUint(first, 10, 31)
	b, err2 := strconv.ParseUint(last, 10, 31)
	if err1 != nil || err2 != nil || a < 1000 || b < a || a <= 65535 && b >= 65534 {
		return UIDs{}, &sandglass.Error{Code: sandglass.CodeConfig, Op: "read config",
			Message: fmt.Sprintf("volume_uids: %q is not a range of user IDs.", text),
			Remedy:  fmt.Sprintf("Write the first and the last, from 1000 on and without 65534 and 65535, such as %s; or none.", DefaultUIDs)}
	}
	return UIDs{int(a), int(b)}, nil
}

func (r UIDs) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// Empty says whether volumes get no IDs of their own.
func (r UIDs) Empty() bool { return r == UIDs{} }

// Contains says whether the ID is one of the range.
func (r UIDs) Contains(uid int) bool { return !r.Empty() && r.First <= uid && uid <= r.Last }

// Choose gives an ID of the range that is not taken: the first that no volume ever had, else the one that was
// given longest ago, because what a program of its last volume has left on the host still carries it. given is when
// each was last given. With all of them taken it is CodeNoUID.
func (r UIDs) Choose(given map[int]time.Time, taken func(uid int) bool) (int, error) {
	oldest := 0
	for uid := r.First; uid <= r.Last && !r.Empty(); uid++ {
		at, before := given[uid]
		if before && oldest != 0 && !at.Before(given[oldest]) || taken(uid) {
			continue
		}
		if !before {
			return uid, nil
		}
		oldest = uid
	}
	if oldest == 0 {
		return 0, &sandglass.Error{Code: CodeNoUID, Op: "choose user ID",
			Message: fmt.Sprintf("No user ID is left for another volume: all of %s belong to volumes, accounts or running programs of this host.", r),
			Remedy:  "Drop kept states (sandglass volume ls, sandglass volume drop), or give volume_uids in config.yaml a larger range and start `sandglass serve` again."}
	}
	return oldest, nil
}

// HasAccount says whether a user or a group of this host has the ID. When that can't be told, it is assumed.
func HasAccount(id int) bool {
	_, userErr := user.LookupId(strconv.Itoa(id))
	_, groupErr := user.LookupGroupId(strconv.Itoa(id))
	_, noUser := userErr.(user.UnknownUserIdError)
	_, noGroup := groupErr.(user.UnknownGroupIdError)
	return !noUser || !noGroup
}

// RunningUIDs are the user IDs that processes of this host have: a program that outlived its volume must not be the
// next one's user.
func RunningUIDs() map[int]bool {
	all := map[int]bool{}
	for _, pid := range processes() {
		for _, id := range usersOf(pid) {
			all[id] = true
		}
	}
	return all
}

// UIDOwner is the owner of an ID that no account has; its group has the same.
func UIDOwner(uid int) Owner {
	return Owner{Name: "sandglass-" + strconv.Itoa(uid), UID: uid, GID: uid, NoAccount: true}
}
