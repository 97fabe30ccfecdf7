"""Networks: what turns a Batch into Outputs. They see tensors and settings, never files of the data path."""
