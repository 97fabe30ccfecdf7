"""The shard format: packing, indexing, reading by offset, streaming. Tars themselves live under `results/shards/`."""
