// The least that a Durable Object can do for an append: one row for each POST, behind a Worker that
// only forwards.

export class Baseline {
  constructor(state) {
    this.sql = state.storage.sql;
    this.sql.exec("CREATE TABLE IF NOT EXISTS records (position INTEGER PRIMARY KEY, data BLOB NOT NULL)");
  }

  async fetch(request) {
    if (request.method === "POST") this.sql.exec("INSERT INTO records (data) VALUES (?)", await request.arrayBuffer());
    return new Response(null, { status: 204 });
  }
}

export default {
  fetch(request, env) {
    const name = new URL(request.url).pathname;
    return env.STREAMS.get(env.STREAMS.idFromName(name)).fetch(request);
  },
};
