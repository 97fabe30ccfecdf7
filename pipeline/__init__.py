"""From data sets as shipped to manifests and features. Nobody outside this folder imports more than `pipeline.base`."""
