package sandglass

import "time"

// RelationRows is what one transaction did to one relation.
type RelationRows struct {
	// Database and Relation are names where they are known, else "oid 16384" and "filenode 16402".
	Database  string `json:"database"`
	Relation  string `json:"relation"`
	Inserted  int64  `json:"inserted,omitempty"`
	Updated   int64  `json:"updated,omitempty"`
	Deleted   int64  `json:"deleted,omitempty"`
	Truncated bool   `json:"truncated,omitempty"`
}

// Commit is one committed transaction of the window, with the rows it changed: the way to find an accident.
type Commit struct {
	XID uint64 `json:"xid"`
	// LSN is where its commit record starts: a restore to AtLSN of it leaves the transaction out.
	LSN  LSN            `json:"lsn"`
	Time time.Time      `json:"time"` // of the commit record, by production's clock
	Rows []RelationRows `json:"rows"`
}

// CommitQuery chooses commits; zero fields choose everything the window holds.
type CommitQuery struct {
	From     time.Time `json:"from,omitzero"`
	To       time.Time `json:"to,omitzero"`
	Relation string    `json:"relation,omitempty"` // name, as in RelationRows
	// MinRows leaves out transactions that changed fewer rows; truncations are never left out.
	MinRows int64 `json:"min_rows,omitempty"`
	// Limit bounds the answer to the newest so many; 0 means 100.
	Limit int `json:"limit,omitempty"`
}

// Peek is an open, sealed, un-neutralized copy for reading lost rows.
type Peek struct {
	ID          string     `json:"id"` // that of its operation
	Environment string     `json:"environment"`
	Moment      string     `json:"moment"` // for people
	Reason      string     `json:"reason"`
	AskedBy     string     `json:"asked_by"`
	Opened      time.Time  `json:"opened"`
	Connection  Connection `json:"connection"` // its Until is when the peek ends by itself
}

// RepositoryInfo is what a repository holds.
type RepositoryInfo struct {
	Path         string                      `json:"path"`
	ID           string                      `json:"id"`
	Format       int                         `json:"format"`
	Created      time.Time                   `json:"created"`
	Recipients   []string                    `json:"recipients"` // age public keys
	Objects      int                         `json:"objects"`
	Bytes        int64                       `json:"bytes"`
	FreeBytes    int64                       `json:"free_bytes"` // of the file system; negative when not known
	Environments []RepositoryEnvironmentInfo `json:"environments"`
}

// RepositoryEnvironmentInfo is one environment's share of a repository.
type RepositoryEnvironmentInfo struct {
	Environment  string `json:"environment"`
	Incarnations int    `json:"incarnations"`
	Images       int    `json:"images"`
	ImageBytes   int64  `json:"image_bytes"` // stored
	WALBytes     int64  `json:"wal_bytes"`   // stored
}

// OperationQuery chooses operations; zero fields choose all.
type OperationQuery struct {
	Environment string `json:"environment,omitempty"`
	Limit       int    `json:"limit,omitempty"` // newest so many; 0 means 50
}
