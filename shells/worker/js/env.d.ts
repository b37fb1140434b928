/** The Worker's bindings (`wrangler.toml`). */
interface Env {
  STREAMS: DurableObjectNamespace;
  SEGMENTS: R2Bucket;
  ADMIN_INDEX: D1Database;
  FANOUT_QUEUE: Queue<string>;
  METRICS: AnalyticsEngineDataset;
  ASSETS?: Fetcher;
}
