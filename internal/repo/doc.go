// Package repo keeps images and WAL in a Repository on a Store (a folder, later object
// storage). docs/FORMAT.md describes each byte of it.
//
// The words of this package:
//
//	Store     keeps named byte strings durably; knows nothing of what is in them
//	Object    one of them; encrypted with age to the repository's recipients, never changed
//	Chunk     256 KiB of a file, aligned; the last of a file is shorter
//	Bundle    an object of up to 64 MiB of compressed chunks
//	Manifest  the object that makes an image: its files, and where their chunks are
//	Digests   the last image's manifest in a local file, by which the next image finds
//	          what has not changed
//	Segment   a whole WAL segment; Part: a stretch of one that is not finished yet
//
// Writing needs the recipients and the digest key only; reading needs an identity. What a
// recorder must know without one (what is held, and whether a thing sent again is the same) is
// in the names of the objects and in a keyed digest in the age header.
package repo
