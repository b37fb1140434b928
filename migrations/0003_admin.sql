-- What the list of the admin API says of a stream. Rows of streams that were created before have no expiry, and do not
-- say that they are closed.

ALTER TABLE streams ADD COLUMN closed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE streams ADD COLUMN expires_at INTEGER; -- milliseconds since 1970, of a stream with a fixed end
ALTER TABLE streams ADD COLUMN ttl_seconds INTEGER; -- of a stream that ends when it is not used
