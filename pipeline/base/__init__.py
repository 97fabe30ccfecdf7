"""What every other package may import: tables, settings, errors, files, seeds and the typed batch."""
