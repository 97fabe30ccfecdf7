"""Parts of networks. Each is a plain nn.Module of tensors and numbers: no Batch, no settings class, no file."""
