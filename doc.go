// Package sandglass is the language of Sandglass: the types, states, error codes
// and the arithmetic of LSNs, timelines and moments that every other package
// speaks. It uses the standard library only and does no I/O.
//
// The words are those of the project, one for one thing:
//
//	Environment  a named installation of an application, in one PostgreSQL cluster
//	Recorder     follows one environment: streams its WAL and takes base images
//	Image        an immutable, complete physical state, from which recovery can start
//	Repository   where images and WAL are kept
//	Timeline     PostgreSQL's: a branch of WAL
//	Incarnation  a stretch of one environment's history, ended by a cutover, an undo,
//	             a fork or a new system identifier
//	Window       the moments that can be restored, with their gaps
//	Moment       what the user asked for, resolved to a Range of LSNs
//	Volume       a writable private copy of an image on a host
//	Operation    a durable piece of work asked for by a person, made of Steps
//	Finding      one answer of preflight: ok, warning or stop, with code and remedy
package sandglass
