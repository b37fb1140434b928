# The server for one machine.
FROM node:22-bookworm-slim AS page
WORKDIR /source
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY admin admin
RUN node admin/build.mjs admin/dist

FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
COPY --from=page /source/admin/dist admin/dist
RUN cargo build --release --locked --package durable-streams-server

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --home-dir /data --create-home streams
COPY --from=build /source/target/release/durable-streams /usr/local/bin/
USER streams
VOLUME /data
EXPOSE 4437
ENTRYPOINT ["durable-streams", "--listen", "0.0.0.0:4437", "--data", "/data"]
