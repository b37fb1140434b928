/** The Worker's bindings (`wrangler.toml`). */
interface Env {
  STREAMS: DurableObjectNamespace;
  SEGMENTS: R2Bucket;
  ADMIN_INDEX: D1Database;
  METRICS: AnalyticsEngineDataset;
  ASSETS?: Fetcher;
}
