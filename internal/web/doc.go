// Package web is the HTTP API: JSON over a Unix socket that only its operator may open, and over
// TCP with a token. It is described by OpenAPI 3.1 at /openapi.json and for people at /docs.
// The package knows no other part of Sandglass: it declares what it needs as small interfaces in the
// root package's types, and whoever runs the control plane hands them over as Parts.
//
// Every refusal is an RFC 9457 problem whose code, message, remedy, nearest_before and nearest_after
// are those of sandglass.Error; the status comes from sandglass.Outcome. A foreign error is logged, and
// shown as internal.
package web
