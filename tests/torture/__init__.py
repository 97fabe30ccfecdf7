"""The promises of docs/reliability.md, each tried until it breaks or holds: `make torture`; `make test` runs a fast form of each."""
