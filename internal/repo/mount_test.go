package repo_test

import "golang.org/x/sys/unix"

// mountSmall mounts a file system of 4 MiB.
func mountSmall(dir string) error { return unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m") }

func unmount(dir string) { unix.Unmount(dir, unix.MNT_DETACH) }
