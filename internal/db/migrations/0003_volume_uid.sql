-- The operating system user that a volume has to itself, for all its life; NULL: it is the servers' common one's. No two
-- volumes of a host that are there share one. When each was given last is read from the rows of volumes that are gone.
ALTER TABLE sandglass.volume ADD uid bigint CHECK (uid > 0);
CREATE UNIQUE INDEX volume_one_uid ON sandglass.volume (host, uid) WHERE state <> 'gone';
