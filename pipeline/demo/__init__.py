"""Generated data in the true on-disk grammar of every source: people who walk, speakers who speak, nobody real."""
