-- Forks: the name of the stream that a stream was forked from.

ALTER TABLE streams ADD COLUMN forked_from TEXT NOT NULL DEFAULT ''; -- empty if the stream is no fork
