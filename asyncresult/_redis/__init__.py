"""Everything that speaks to Redis or Valkey: one server, Sentinel, Cluster."""
