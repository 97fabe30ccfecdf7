"""Embeddings, distances, ranks, scores and the report. Only `embed` needs torch."""
