-- The admin index: an optional, global listing of streams and of their segments in R2, for clean-up and operations.
-- It is a copy. Each stream's own object holds the truth and writes here after the fact, possibly late or more than
-- once: a row replaces an older one only when its version is greater.

CREATE TABLE streams (
    path         TEXT    NOT NULL PRIMARY KEY, -- the stream's name as in its URL
    incarnation  TEXT    NOT NULL,             -- made anew each time the stream is created
    content_type TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,             -- milliseconds since 1970
    deleted_at   INTEGER,                      -- of a stream that is no more; such a row goes when nothing late can follow
    version      INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE segments (
    path         TEXT    NOT NULL,
    incarnation  TEXT    NOT NULL,
    segment      INTEGER NOT NULL, -- counts from 0 within one incarnation
    start_offset TEXT    NOT NULL, -- of the first message
    end_offset   TEXT    NOT NULL, -- after the last message
    r2_key       TEXT    NOT NULL,
    bytes        INTEGER NOT NULL, -- size of the object in R2
    messages     INTEGER NOT NULL,
    created_at   INTEGER NOT NULL, -- milliseconds since 1970
    version      INTEGER NOT NULL,
    PRIMARY KEY (path, incarnation, segment)
) WITHOUT ROWID;
