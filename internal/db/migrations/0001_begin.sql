-- The metadata of Sandglass: what a person asked for, and everything that must be known after
-- a SIGKILL. Truth about an operation is here; River's tables, beside it in the same schema,
-- only say which step is to be done next.

CREATE TABLE sandglass.environment (
    name          text PRIMARY KEY,
    declaration   jsonb NOT NULL,
    created       timestamptz NOT NULL DEFAULT now(),
    changed       timestamptz NOT NULL DEFAULT now(),
    recording     boolean NOT NULL DEFAULT false,       -- the wish
    server        text NOT NULL DEFAULT 'stopped' CHECK (server IN ('running', 'stopped')),  -- the wish
    held          boolean NOT NULL DEFAULT false,
    volume        text,                                 -- current
    incarnation   text NOT NULL DEFAULT '',
    restored      text NOT NULL DEFAULT '',             -- the moment shown, for people
    restored_from text NOT NULL DEFAULT '',
    restored_at   timestamptz,
    has_previous  boolean NOT NULL DEFAULT false,       -- whether an undo knows where to go back to
    previous      text NOT NULL DEFAULT ''             -- the volume before the last cutover; empty: the sandbox was empty
);

CREATE TABLE sandglass.volume (
    id          text PRIMARY KEY,
    host        text NOT NULL,
    environment text NOT NULL,
    operation   text NOT NULL DEFAULT '',
    state       text NOT NULL CHECK (state IN ('staging', 'current', 'kept', 'gone')),
    driver      text NOT NULL,
    path        text NOT NULL,
    major       integer NOT NULL,
    bytes       bigint NOT NULL DEFAULT 0,
    created     timestamptz NOT NULL DEFAULT now(),
    kept_since  timestamptz,
    kept_until  timestamptz,
    moment      text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX volume_one_current ON sandglass.volume (environment) WHERE state = 'current';
CREATE INDEX volume_environment ON sandglass.volume (environment) WHERE state <> 'gone';

CREATE TABLE sandglass.operation (
    id          text PRIMARY KEY,
    host        text NOT NULL,
    kind        text NOT NULL,
    environment text NOT NULL,
    source      text NOT NULL DEFAULT '',
    exclusive   boolean NOT NULL,                       -- the only unfinished one of its environment
    state       text NOT NULL CHECK (state IN ('queued', 'running', 'undoing', 'succeeded', 'failed', 'cancelled')),
    asked_by    text NOT NULL,
    reason      text NOT NULL DEFAULT '',
    created     timestamptz NOT NULL DEFAULT now(),
    began       timestamptz,
    ended       timestamptz,
    version     bigint NOT NULL DEFAULT 1,
    cancelling  boolean NOT NULL DEFAULT false,
    no_return   boolean NOT NULL DEFAULT false,         -- a cancel comes too late
    request     jsonb NOT NULL,
    plan        jsonb,
    error       jsonb,
    result      jsonb,
    memory      jsonb                                   -- what its steps must remember
);
CREATE UNIQUE INDEX operation_one_unfinished ON sandglass.operation (environment)
    WHERE exclusive AND state IN ('queued', 'running', 'undoing');
CREATE INDEX operation_environment ON sandglass.operation (environment, created);

CREATE TABLE sandglass.step (
    operation text NOT NULL REFERENCES sandglass.operation ON DELETE CASCADE,
    position  integer NOT NULL,
    name      text NOT NULL,
    state     text NOT NULL CHECK (state IN ('pending', 'running', 'done', 'failed', 'undoing', 'undone', 'skipped')),
    attempt   integer NOT NULL DEFAULT 0,               -- grows each time it is begun or its undo is; fences out older holders
    tries     integer NOT NULL DEFAULT 0,               -- undos that failed
    progress  jsonb,
    began     timestamptz,
    ended     timestamptz,
    error     jsonb,
    PRIMARY KEY (operation, position),
    UNIQUE (operation, name)
);

CREATE TABLE sandglass.recorder (
    environment text PRIMARY KEY,
    incarnation text NOT NULL DEFAULT '',
    last_image  text NOT NULL DEFAULT '',
    digests     text NOT NULL DEFAULT '',               -- the image whose chunk digests the state folder holds
    changed     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE sandglass.audit (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    who         text NOT NULL,
    what        text NOT NULL,
    environment text NOT NULL DEFAULT '',
    operation   text NOT NULL DEFAULT '',
    detail      jsonb
);

CREATE TABLE sandglass.prune_plan (
    id       text PRIMARY KEY,
    made     timestamptz NOT NULL,
    plan     jsonb NOT NULL,
    executed timestamptz
);
