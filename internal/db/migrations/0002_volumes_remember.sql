-- What a volume takes along when a cutover puts it aside, and brings back when an undo goes back to it: the
-- stretch of history that is its own, and what its sandbox says of itself meanwhile.
ALTER TABLE sandglass.volume
    ADD incarnation   text NOT NULL DEFAULT '',
    ADD held          boolean NOT NULL DEFAULT false,
    ADD restored      text NOT NULL DEFAULT '',
    ADD restored_from text NOT NULL DEFAULT '',
    ADD restored_at   timestamptz;

-- Set by the beginning of an `env rm`: no operation can begin any more.
ALTER TABLE sandglass.environment ADD removing boolean NOT NULL DEFAULT false;

-- Plans of prune, and how far a recorder is, are in the repository.
DROP TABLE sandglass.prune_plan, sandglass.recorder;
