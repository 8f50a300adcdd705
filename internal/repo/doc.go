// Package repo keeps images and WAL in a Repository on a Store (a folder, later object
// storage). Every object is immutable and encrypted with age to the repository's recipients;
// docs/FORMAT.md describes each byte. Writing needs the recipients and the digest key only;
// reading needs an identity.
package repo
